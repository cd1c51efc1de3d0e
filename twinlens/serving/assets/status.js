element.setAttribute('role', 'status');
element.setAttribute('aria-live', 'polite');
