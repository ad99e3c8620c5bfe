import { describe, expect, it } from 'vitest';
import { browserName } from './data';

describe('names of browsers', () => {
  it('are short', () => {
    expect(browserName('Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0')).toBe('Firefox 140 on Linux');
    expect(browserName('Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36 Edg/142.0.0.0')).toBe('Edge 142 on Windows');
    expect(browserName('Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1')).toBe('Safari 18 on iOS');
    expect(browserName('Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Mobile Safari/537.36')).toBe('Chrome 142 on Android');
  });
  it('stay what they are when unknown', () => {
    expect(browserName('curl/8.5')).toBe('curl/8.5');
    expect(browserName('')).toBe('Unknown browser');
  });
});
