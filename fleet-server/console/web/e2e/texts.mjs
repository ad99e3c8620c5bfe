// What stands on a page: text that nobody should see, foreign text that is not kept apart, elements that nobody made.
import assert from 'node:assert/strict';
import { fits } from './checks.mjs';

/** What a program says when it shows what it does not understand. */
const NONSENSE = /\b(NaN|Infinity|undefined|Invalid Date|null)\b|\[object \w+\]/;
/** How programs write a number, and people do not: `1.2e+2`. In digests and ids an `e` has more before it, and no sign behind it. */
const EXPONENT = /(?<![\w.…]|\w-)\d(?:\.\d+)?e[+-]\d{1,3}(?![\w-])/;
/** Of attributes, those that are shown or read out; in the others (places, sizes) numbers are for programs. */
const ATTRIBUTE = /^[\w:-]+="/;
const SAID = /^(?:title|alt|placeholder|aria-[\w-]+)="/;

export function nonsense(text) {
  return NONSENSE.test(text) || (EXPONENT.test(text) && (!ATTRIBUTE.test(text) || SAID.test(text)));
}

/** Whatever the screen has to say has been said. */
export async function settled(page) {
  await page.waitForSelector('main h1');
  await page.waitForFunction(() => document.querySelector('#main .bone, #main [data-state="loading"], #main [aria-busy="true"]') === null);
}

/** What stands on the page, and in the attributes of its elements: labels, tooltips, places, sizes. */
export function visible(page) {
  return page.evaluate(() => {
    const said = [document.title];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT | NodeFilter.SHOW_ELEMENT);
    for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) said.push(node.data);
      else if (node instanceof Element) for (const { name, value } of node.attributes) said.push(`${name}="${value}"`);
    }
    return said;
  });
}

/** Looks at every place before it says what is wrong with them: `look` is given each and throws. */
export async function everywhere(places, look) {
  const wrong = [];
  for (const place of places) {
    await look(place).catch((error) => {
      wrong.push(`${Array.isArray(place) ? place[0] : place}: ${error.message}`);
    });
  }
  assert.equal(wrong.join('\n\n'), '');
}

/** No number, time or text is shown that has none. */
export async function sensible(page) {
  const wrong = (await visible(page)).filter(nonsense);
  assert.deepEqual(wrong, [], `on ${page.url()}`);
}

/**
 * Text of another direction is alone in what isolates it: it turns nothing around that stands beside it. A text that is the
 * whole of its block has nothing beside it.
 */
export async function isolated(page) {
  const wrong = await page.evaluate(() => {
    const turning = /[\u0590-\u08ff\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufefc]/;
    const isolating = (node) => {
      let around = node.parentElement;
      while (around !== document.body && !/isolate|plaintext/.test(getComputedStyle(around).unicodeBidi)) around = around.parentElement;
      return around;
    };
    // Of each element that isolates, the text that stands in it without being isolated once more.
    const texts = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node !== null; node = walker.nextNode()) {
      if (node.parentElement.closest('script, style, textarea, option') !== null) continue;
      const around = isolating(node);
      texts.set(around, [...(texts.get(around) ?? []), node.data]);
    }
    const found = [];
    for (const [around, parts] of texts) if (parts.some((part) => turning.test(part)) && parts.filter((part) => part.trim() !== '').length > 1) found.push(`${around.outerHTML.slice(0, 300)} with ${JSON.stringify(parts).slice(0, 200)}`);
    return found;
  });
  assert.deepEqual(wrong, [], `not kept apart on ${page.url()}`);
  const { direction, left, right } = await page.evaluate(() => ({
    direction: getComputedStyle(document.querySelector('#main')).direction,
    left: document.querySelector('.side')?.getBoundingClientRect().left ?? 0,
    right: document.querySelector('#main').getBoundingClientRect().left,
  }));
  assert.equal(direction, 'ltr');
  assert.ok(left <= right, 'the navigation is left of the screen');
}

/** Foreign text has become text alone, and fits. `marked` sets this when one of them is carried out. */
export async function harmless(page, dialogs) {
  assert.deepEqual(dialogs, [], `a dialog on ${page.url()}`);
  const made = await page.evaluate(() => ({
    marked: globalThis.marked,
    elements: [...document.querySelectorAll('#main img, #main script, #main iframe, #main object, body blink, [onerror], [onload], [onclick], a[href^="javascript:"]')].map((element) => element.outerHTML.slice(0, 200)),
  }));
  assert.deepEqual(made, { marked: undefined, elements: [] }, `on ${page.url()}`);
  await isolated(page);
  await fits(page);
}
