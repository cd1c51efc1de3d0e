// Words of any script run their own way; Gradio has no setting for it.
() => {
  const box = document.querySelector('#words textarea, #words input');
  if (box) {
    box.dir = 'auto';
    box.setAttribute('enterkeyhint', 'search');
  }
}
