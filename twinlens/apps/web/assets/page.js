// What a visitor has lives here and nowhere else: the form, the marks, and the picture as the server made it smaller.
const part = (selector) => document.querySelector(selector);
const [form, words, drop, tray, status, results] = ['#asked', '#words input', '#drop', '#tray', '#status', '#results'].map(part);
const weight = part('#weight input');
const have = { marks: [], picture: null, mended: [] };
for (const { dataset } of tray.querySelectorAll('[data-marked]')) {
  have.marks.push({ id: dataset.marked, relevant: dataset.relevant === 'yes' });
}

// ---- the server

const post = async (path, body, seconds, leaving = new AbortController()) => {
  const headers = { 'content-type': 'application/octet-stream' }; // which no form of another page can send
  setTimeout(() => leaving.abort(), seconds * 1000);
  const answer = await fetch(path, { method: 'POST', headers, body, signal: leaving.signal });
  const kind = answer.headers.get('content-type') ?? '';
  if (kind.startsWith('application/json')) {
    const said = await answer.json();
    if (answer.ok) return said;
    throw Object.assign(new Error(said.problem), { said: true });
  }
  // The guard refuses in plain words; anything else is of somebody between us and the server.
  throw Object.assign(new Error(await answer.text()), { said: !answer.ok && kind.startsWith('text/plain') });
};
const reason = (error, otherwise) => (error.said ? error.message : otherwise);
const NO_ANSWER = 'the page does not answer: look whether it still runs';
const NOT_ARRIVED = 'the picture did not arrive: drop it once more, or look whether the page still runs';

const say = (sentence, kind = 'told') => {
  const line = document.createElement('p');
  line.className = kind;
  line.dir = 'auto';
  line.textContent = sentence;
  status.replaceChildren(line);
  // On a phone it stands below what was used, or above what is looked at.
  if (kind === 'problem') line.scrollIntoView({ block: 'nearest' });
};
const complain = (sentence) => say(sentence, 'problem');

const mode = () => part('#mode input:checked')?.value ?? 'auto';
const setMode = (value) => {
  for (const radio of document.querySelectorAll('#mode input')) radio.checked = radio.value === value;
};

// ---- searching: one search is on its way, and the latest wish behind it; the answer to an older one is not shown

const SHOWN_AFTER_MS = 400; // what comes at once does not flicker
let wish = null;
let asked = 0; // counts changes of what is searched for
let searching = false;
let jump = false; // whether who used something follows it to the results

const search = (again = false) => {
  const choices = Object.fromEntries(['model', 'other'].map((name) => [name, part(`#${name} select`).value]));
  const numbers = { weight: Number(weight.value), count: Number(part('#count select').value) };
  const { marks, mended, picture } = have;
  const line = { words: words.value.toWellFormed?.() ?? words.value, mode: mode(), ...choices, ...numbers, marks, mended, again };
  const body = new Blob([JSON.stringify(line), '\n', ...(picture ? [picture] : [])]);
  wish = { body, before: mode(), number: (asked += 1) };
  if (!searching) answerWishes();
};
const changed = () => {
  if (words.value.trim() || have.picture || have.marks.length) search();
  else [wish, asked] = [null, asked + 1]; // nothing is searched for any more
};
const answerWishes = async () => {
  searching = true;
  results.setAttribute('aria-busy', 'true');
  const slow = setTimeout(() => say('Searching', 'told working'), SHOWN_AFTER_MS);
  while (wish) {
    const { body, before, number } = wish;
    wish = null;
    try {
      const found = await post('search', body, 300);
      if (number === asked) show(found, before);
    } catch (error) {
      if (number === asked) complain(reason(error, NO_ANSWER));
    }
  }
  searching = false;
  clearTimeout(slow);
  if (status.querySelector('.working')) status.replaceChildren(); // nothing is searched for any more
  results.removeAttribute('aria-busy');
};
const show = (found, before) => {
  results.innerHTML = found.results;
  press();
  say(found.status);
  if (mode() === before) setMode(found.mode);
  if (jump) results.focus({ preventScroll: true }); // for the keyboard and for those who listen
  jump = false;
  const { top } = results.getBoundingClientRect();
  if (top < 0 || top > 0.6 * window.innerHeight) results.scrollIntoView({ block: 'start' });
};

form.addEventListener('submit', (event) => {
  event.preventDefault();
  search();
});
form.addEventListener('change', (event) => {
  if (event.target.matches('#mode input, #weight input, select')) changed();
});
weight.addEventListener('input', () => {
  part('#weight output').value = Number(weight.value);
});

// ---- marks: what changes them goes one after another, so that none of several quick clicks is lost

let turn = Promise.resolve();
const inTurn = (change) => {
  turn = turn.then(change).catch((error) => complain(reason(error, NO_ANSWER)));
};
const press = () => {
  const marks = new Map(have.marks.map(({ id, relevant }) => [id, relevant ? 'yes' : 'no']));
  for (const button of results.querySelectorAll('button[data-action=mark]')) {
    button.setAttribute('aria-pressed', String(marks.get(button.dataset.id) === button.dataset.relevant));
  }
};
const lookAt = (marks, pictured = have.picture !== null, now = mode()) =>
  post('tray', JSON.stringify({ marks, pictured, mode: now }), 30);
const setMarks = (marks, said) => {
  have.marks = marks;
  const place = [...tray.querySelectorAll('button')].indexOf(document.activeElement);
  tray.innerHTML = said.tray;
  press();
  if (place < 0) return;
  const buttons = tray.querySelectorAll('button'); // the keyboard goes on where it was
  (buttons[Math.min(place, buttons.length - 1)] ?? results).focus({ preventScroll: true });
};
const mark = (marks) => async () => {
  const after = marks(have.marks);
  if (after.length > Number(tray.dataset.most)) return complain(tray.dataset.full);
  const now = mode();
  const said = await lookAt(after);
  setMarks(after, said);
  say(said.status);
  if (mode() === now) setMode(said.mode);
};
const without = (marks, id) => marks.filter((one) => one.id !== id);

const actions = {
  mark: ({ id, relevant }) => inTurn(mark((marks) => {
    const found = marks.find((one) => one.id === id);
    const gone = found?.relevant === (relevant === 'yes'); // a second click takes the mark away
    return [...without(marks, id), ...(gone ? [] : [{ id, relevant: relevant === 'yes' }])];
  })),
  unmark: ({ id }) => inTurn(mark((marks) => without(marks, id))),
  clear: () => inTurn(mark(() => [])),
  again: () => inTurn(() => search(true)),
  say: ({ text }) => {
    words.value = text;
    search();
  },
  // A picture of the pool that was clicked is the whole query from here on; one that is gone leaves it as it was.
  search_by: ({ id }) => inTurn(async () => {
    const marks = [{ id, relevant: true }];
    const said = await lookAt(marks, false, 'auto');
    words.value = '';
    setMode('auto');
    setPicture(null);
    setMarks(marks, said);
    search();
  }),
  remove: () => inTurn(async () => {
    const now = mode();
    const said = await lookAt(have.marks, false);
    setPicture(null);
    if (mode() === now) setMode(said.mode);
    changed();
  }),
};
document.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-action]');
  if (!button) return;
  if (['search_by', 'again', 'say'].includes(button.dataset.action)) jump = true;
  actions[button.dataset.action](button.dataset);
});

// ---- the visitor's own picture

let taken = 0; // counts pictures: one that another took the place of is not shown when it arrives
let leaving = new AbortController(); // and the server need not open it

const setPicture = (html, mended = []) => {
  taken += 1;
  leaving.abort();
  drop.removeAttribute('aria-busy');
  const focused = drop.contains(document.activeElement);
  drop.replaceChildren(part('#no-picture').content.cloneNode(true));
  if (html !== null) drop.innerHTML = html;
  const image = drop.querySelector('.taken img');
  const bytes = image && Uint8Array.from(atob(image.src.split(',')[1]), (sign) => sign.charCodeAt(0));
  [have.picture, have.mended] = [bytes && new Blob([bytes]), mended];
  if (focused) drop.querySelector('button, input').focus({ preventScroll: true });
};
const notTaken = (sentence) =>
  complain(`${sentence}${have.picture ? '; the picture before it is still searched by' : ''}`);
const take = async (file) => {
  if (!file) return;
  const input = drop.querySelector('input');
  if (file.size > Number(drop.dataset.bytes)) {
    if (input) input.value = '';
    notTaken(drop.dataset.large);
    return;
  }
  const number = (taken += 1);
  leaving.abort();
  leaving = new AbortController();
  drop.setAttribute('aria-busy', 'true');
  try {
    const said = await post('picture', file, 300, leaving);
    if (number !== taken) return;
    setPicture(said.drop, said.mended);
    search();
  } catch (error) {
    if (number !== taken) return;
    drop.removeAttribute('aria-busy');
    notTaken(reason(error, NOT_ARRIVED));
  } finally {
    if (input) input.value = ''; // the same file may be chosen once more
  }
};
drop.addEventListener('change', (event) => take(event.target.files?.[0]));
for (const name of ['dragenter', 'dragover']) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add('over');
  });
}
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', (event) => {
  event.preventDefault();
  drop.classList.remove('over');
  take(event.dataTransfer.files[0]);
});
document.addEventListener('paste', (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith('image/'));
  if (file) take(file);
});
// A file that misses the area must not replace the page.
for (const name of ['dragover', 'drop']) window.addEventListener(name, (event) => event.preventDefault());
press();
