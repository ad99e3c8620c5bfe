// Command lines as people paste them into a POSIX shell. Whatever stands in a name, the shell sees one word.

/** A word for `sh`: bare when it is safe, else in single quotes. */
export function shellQuote(word: string): string {
  if (word !== '' && /^[A-Za-z0-9_@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", "'\\''")}'`;
}

/** `cli('devices', 'tag', id, '--tag', 'site=Oslo 1')` gives a line that begins with `fleetctl`. Empty parts are left out. */
export function cli(...words: (string | number | false | null | undefined)[]): string {
  return ['fleetctl', ...words.filter((word) => word !== false && word !== null && word !== undefined).map(String).map(shellQuote)].join(' ');
}
