// Command lines that the shell itself shows.

/** Prints a fresh one-time sign-in link. */
export const SIGN_IN_COMMAND = 'fleetctl console';
