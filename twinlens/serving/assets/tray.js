// events: 'unmark', 'again', 'clear'
watch('value', () => document.dispatchEvent(new Event('twinlens:marks')));
