// events: 'search_by', 'mark', 'say'
element.tabIndex = -1;
const pressMarked = () => {
  const marks = new Map();
  for (const one of document.querySelectorAll('#tray [data-marked]')) marks.set(one.dataset.marked, one.dataset.relevant);
  for (const button of element.querySelectorAll('button[data-action=mark]')) {
    button.setAttribute('aria-pressed', String(marks.get(button.dataset.id) === button.dataset.relevant));
  }
};
document.addEventListener('twinlens:marks', pressMarked);
watch('value', () => {
  pressMarked();
  if (element.querySelector('.latency, .problem') === null) return; // nothing was searched for yet
  if (document.twinlensJump) element.focus({ preventScroll: true }); // for the keyboard and for those who listen
  const { top } = element.getBoundingClientRect();
  if (top < 0 || top > 0.6 * window.innerHeight) element.scrollIntoView({ block: 'start' });
  document.twinlensJump = false;
});
