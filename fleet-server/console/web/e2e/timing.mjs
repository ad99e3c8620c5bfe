// How long something takes until it is on the screen, measured in the page, and what is said of many such times.

/** Of any times: the one that so large a share of them does not exceed. */
export function quantile(times, share) {
  const sorted = [...times].sort((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)];
}

/** Makes `untilPainted` known to a page; call it before the page is opened. */
export async function withTiming(page) {
  await page.addInitScript(() => {
    // When `ready` has become true and the frame that shows it has been drawn: a message is taken up after that.
    globalThis.untilPainted = (ready) =>
      new Promise((resolve) => {
        const channel = new MessageChannel();
        channel.port1.onmessage = () => resolve(performance.now());
        const look = () => {
          if (ready()) channel.port2.postMessage(undefined);
          else requestAnimationFrame(look);
        };
        requestAnimationFrame(look);
      });
  });
}

/** Presses keys in a labeling queue; of each, how long it took until another item was painted, in milliseconds. */
export async function labelTimes(page, keys) {
  const times = [];
  for (const key of keys) {
    await page.evaluate(() => {
      globalThis.measured = new Promise((resolve) => {
        const item = () => document.querySelector('[data-sample]')?.getAttribute('data-sample');
        addEventListener(
          'keydown',
          (event) => {
            const before = item();
            void globalThis.untilPainted(() => item() !== before).then((at) => resolve(at - event.timeStamp));
          },
          { once: true, capture: true },
        );
      });
    });
    await page.keyboard.press(key);
    times.push(await page.evaluate(() => globalThis.measured));
  }
  return times;
}
