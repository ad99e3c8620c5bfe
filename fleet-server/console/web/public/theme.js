// Before the first paint, so that a stored theme does not flash; a file of its own because the policy forbids inline scripts.
try {
  var theme = localStorage.getItem('flotilla.theme');
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme;
} catch (refused) {
  // Storage is switched off: the system's theme applies.
}
