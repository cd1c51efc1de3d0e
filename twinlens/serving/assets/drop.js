// events: 'picture', 'failed', 'remove'
const take = async (file) => {
  if (!file) return;
  const area = element.querySelector('.drop');
  area?.setAttribute('aria-busy', 'true');
  try {
    const { path } = await upload(file);
    trigger('picture', { path });
  } catch (error) {
    trigger('failed', { reason: String(error?.message ?? error) });
  } finally {
    area?.removeAttribute('aria-busy');
    const input = element.querySelector('input');
    if (input) input.value = '';
  }
};
element.addEventListener('change', (event) => take(event.target.files?.[0]));
for (const name of ['dragenter', 'dragover']) {
  element.addEventListener(name, (event) => {
    event.preventDefault();
    element.classList.add('over');
  });
}
element.addEventListener('dragleave', () => element.classList.remove('over'));
element.addEventListener('drop', (event) => {
  event.preventDefault();
  element.classList.remove('over');
  take(event.dataTransfer.files[0]);
});
document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith('image/'));
  if (file) take(file);
});
// A file that misses the area must not replace the page.
for (const name of ['dragover', 'drop']) window.addEventListener(name, (event) => event.preventDefault());
