element.setAttribute('role', 'status');
element.setAttribute('aria-live', 'polite');
// On a phone it stands below what was used, or above what is looked at.
watch('value', () => element.querySelector('.problem')?.scrollIntoView({ block: 'nearest' }));
