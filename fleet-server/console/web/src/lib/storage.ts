// localStorage and sessionStorage, either of which may be switched off or full: reads give undefined, writes say whether
// they happened. Nothing secret is kept in either.
function open(kind: 'local' | 'session'): Storage | undefined {
  try {
    return kind === 'local' ? globalThis.localStorage : globalThis.sessionStorage;
  } catch {
    return undefined;
  }
}

export function readJson<T>(kind: 'local' | 'session', key: string): T | undefined {
  try {
    const text = open(kind)?.getItem(`flotilla.${key}`);
    return text === null || text === undefined ? undefined : (JSON.parse(text) as T);
  } catch {
    return undefined;
  }
}

export function writeJson(kind: 'local' | 'session', key: string, value: unknown): boolean {
  try {
    const storage = open(kind);
    if (storage === undefined) return false;
    if (value === undefined) storage.removeItem(`flotilla.${key}`);
    else storage.setItem(`flotilla.${key}`, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
