// Buttons inside this part say by data-action which of the part's events they are.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (!button) return;
  const { action, id, relevant, text } = button.dataset;
  const pressed = button.getAttribute('aria-pressed') === 'true';
  trigger(action, { id: id ?? '', relevant: pressed ? '' : (relevant ?? ''), text: text ?? '' });
  if (action === 'search_by' || action === 'again' || action === 'say') element.ownerDocument.twinlensJump = true;
});
