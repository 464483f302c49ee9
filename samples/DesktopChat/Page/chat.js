'use strict';
// The window's page. All text of people and models becomes text nodes: nothing in an answer is ever parsed as HTML.

const element = id => document.getElementById(id);
let messages = [];     // { role, text, documents?, reasoning?, note?, error? }
let documents = [];    // { name, text, tokens? }: go with the next question
let status = null;
let running = null;    // AbortController of the answer that is being written
let leaving = false;   // the browser is about to leave or reload this page
let rate = null;       // tokens a second, of the last answer

const number = n => n.toLocaleString('en');
const count = (n, what) => `${number(n)} ${what}${n === 1 ? '' : 's'}`;

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function post(path, body, signal) {
  return fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body ?? {}), signal });
}

// ---- The model ----

function watch() {
  const source = new EventSource('status');
  let lost = 0;
  source.onmessage = e => {
    clearTimeout(lost);
    lost = 0;
    if (!element('notice').hidden && element('notice').dataset.lost) notice('');
    status = JSON.parse(e.data);
    showStatus();
  };
  source.onerror = () => {
    // A program that has ended never comes back; one that is busy does.
    lost ||= setTimeout(() => {
      notice('The program has ended. This window can be closed.');
      element('notice').dataset.lost = '1';
      element('light').className = '';
      element('send').disabled = true;
    }, 3000);
  };
}

function showStatus() {
  const { state, name, stage, done, remaining, error } = status;
  document.title = name ? `${name} · ERNIE` : 'ERNIE';
  element('name').textContent = name || 'No model';
  element('light').className = state;
  element('model').title = `${status.path}\nClick to choose another model`;
  element('loading').hidden = state !== 'loading';
  element('failed').hidden = state !== 'failed';
  element('empty').hidden = state !== 'ready' || messages.length > 0;
  element('messages').hidden = state !== 'ready';
  if (state === 'loading') {
    // A checkpoint is converted before it is opened; the last report of an export says that all is done.
    const exporting = done != null && done < 1;
    element('loadingTitle').textContent = exporting ? `Preparing ${name} for the first time` : `Opening ${name}`;
    if (exporting) element('progress').value = done; else element('progress').removeAttribute('value');
    element('stage').textContent = exporting ? `${(100 * done).toFixed(0)} %${remaining ? `, about ${remaining} left` : ''} · ${stage}` : 'A moment …';
  }
  element('failure').textContent = error ?? '';
  const tiny = name === 'ernie-tiny-moe';
  element('tiny').hidden = element('suggestions').hidden = !tiny;
  element('send').disabled = state !== 'ready';
  showFigures();
}

function showFigures() {
  const used = messages.findLast(m => m.total)?.total;
  element('figures').textContent = [
    rate && `${rate < 100 ? rate.toFixed(1) : number(Math.round(rate))} tokens/s`,
    status?.contextLength && used && `${number(used)} of ${number(status.contextLength)} tokens`,
    status && `${number(Math.round(status.memory / 1048576))} MB`,
  ].filter(Boolean).join('   ·   ');
  element('figures').title = 'Speed of the last answer, length of the conversation, memory of this program with the pages of the model';
}

async function showFolder(path) {
  const list = element('folders');
  const response = await fetch('folders?' + new URLSearchParams({ path }));
  if (!response.ok) {
    element('open').disabled = true;
    list.replaceChildren(make('li', 'problem', await response.text()));
    return;
  }
  const folder = await response.json();
  element('path').value = folder.path;
  element('up').disabled = !folder.parent;
  element('up').onclick = () => showFolder(folder.parent);
  element('open').disabled = !folder.isModel;
  list.replaceChildren(...folder.folders.map(entry => {
    const item = make('li');
    const button = make('button', entry.isModel ? 'holds' : '', entry.name + (entry.isModel ? '  (model)' : ''));
    button.type = 'button';
    button.addEventListener('click', () => showFolder(entry.path));
    item.append(button);
    return item;
  }));
  if (folder.folders.length === 0) list.append(make('li', 'nothing', folder.isModel ? 'This folder holds a model.' : 'There are no folders here.'));
}

function choose() {
  element('think').checked = status?.think ?? false;
  element('chooser').showModal();
  showFolder(status?.path || '/');
}

async function open() {
  element('chooser').close();
  clear();
  await post('load', { path: element('path').value, think: element('think').checked });
}

// ---- The conversation ----

function save() {
  // For a reload only: the browser forgets it with the window.
  try { sessionStorage.setItem('messages', JSON.stringify(messages)); } catch { sessionStorage.removeItem('messages'); }
}

function clear() {
  running?.abort();
  [messages, documents, rate] = [[], [], null];
  element('messages').replaceChildren();
  showDocuments();
  notice('');
  save();
  if (status) showStatus();
  element('input').focus();
}

// Code between fences is set apart; everything else stands as it was written.
function setText(target, text) {
  target.replaceChildren();
  text.split(/^```[^\n]*\n?/m).forEach((part, i) => {
    if (i % 2 === 1) target.append(make('pre', '', part.replace(/\n$/, '')));
    else if (part) target.append(part);
  });
}

function show(message) {
  const parts = { view: make('article', 'message ' + message.role), text: make('div', 'text'), note: make('div', 'note'), error: make('div', 'error') };
  if (message.documents?.length) {
    const files = make('ul', 'files');
    files.append(...message.documents.map(d => make('li', '', d.name)));
    parts.view.append(files);
  }
  if (message.role === 'assistant') {
    parts.reasoning = make('details');
    parts.summary = make('summary');
    parts.thought = make('div', 'text');
    parts.reasoning.append(parts.summary, parts.thought);
    parts.progress = make('progress');
    parts.view.append(parts.reasoning);
  }
  parts.view.append(parts.text, parts.error, parts.note);
  if (parts.progress) parts.view.append(parts.progress);
  element('messages').append(parts.view);
  update(message, parts);
  return parts;
}

function update(message, parts) {
  const list = element('scroll');
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  if (parts.reasoning) {
    parts.reasoning.hidden = !message.reasoning;
    parts.summary.textContent = message.writing && !message.text ? 'Thinking …' : 'Reasoning';
    parts.thought.textContent = message.reasoning ?? '';
    const reading = message.writing && !message.text && !message.reasoning;
    parts.progress.hidden = !reading || !(message.read < 1);
    if (message.read !== undefined) parts.progress.value = message.read;
    parts.note.textContent = reading ? 'Reading …' : message.note ?? '';
    parts.view.classList.toggle('writing', !!message.writing && !reading);
  }
  parts.text.hidden = !message.text && !(message.writing && !message.reasoning);
  setText(parts.text, message.text);
  parts.error.textContent = message.error ?? '';
  if (follows) list.scrollTop = list.scrollHeight;
}

// What the model is told: documents stand before the question that came with them. Templates take questions and answers in turn, so a question that got no answer is left out.
function prompt() {
  const told = [];
  for (const message of messages) {
    if (message.role === 'assistant') {
      if (message.text) told.push({ role: 'assistant', text: message.text });
      continue;
    }
    if (told.at(-1)?.role === 'user') told.pop();
    told.push({ role: 'user', text: [...(message.documents ?? []).map(d => d.text.trimEnd()), message.text].filter(Boolean).join('\n\n') });
  }
  return told;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  for (; ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split('\n');
    held = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) yield JSON.parse(line.slice(6));
  }
}

async function answer() {
  const message = { role: 'assistant', text: '', reasoning: '', writing: true };
  messages.push(message);
  const told = prompt();
  const parts = show(message);
  const cancellation = running = new AbortController();
  element('send').hidden = true;
  element('stop').hidden = false;
  let pieces = 0, first = 0, drawn = 0, whole = false;
  // A fast model writes more often than a screen shows.
  const draw = () => { drawn ||= requestAnimationFrame(() => { drawn = 0; update(message, parts); showFigures(); }); };
  try {
    const response = await post('answer', told, cancellation.signal);
    if (!response.ok) throw new Error(await response.text());
    for await (const event of events(response.body)) {
      if (event.type === 'error') throw new Error(event.text);
      if (event.type === 'reading') message.read = event.done / event.total;
      if (event.type === 'text' || event.type === 'reasoning') {
        message[event.type] += event.text;
        first ||= performance.now();
        const seconds = (performance.now() - first) / 1000;
        if (++pieces > 8 && seconds > .05) rate = (pieces - 1) / seconds;
      }
      if (event.type === 'done') {
        whole = true;
        // Tokens of a short answer come in one packet; the time between them says nothing then.
        if (event.seconds > .005) rate = (event.tokens - 1) / event.seconds;
        message.total = event.promptTokens + event.tokens;
        message.note = `${count(event.promptTokens, 'token')} read${event.cachedTokens ? ` (${number(event.cachedTokens)} known already)` : ''}, ${count(event.tokens, 'token')} written${event.cutOff ? ', cut at the limit' : ''}`;
      }
      draw();
    }
    if (!whole) throw new Error('The answer broke off.');
  } catch (e) {
    if (cancellation.signal.aborted || leaving) message.note = 'Stopped'; else message.error = e.message;
  }
  message.writing = false;
  cancelAnimationFrame(drawn);
  update(message, parts);
  if (running === cancellation) {
    running = null;
    element('send').hidden = false;
    element('stop').hidden = true;
    save();
    showFigures();
    element('input').focus();
  }
}

function ask(text) {
  if (running || status?.state !== 'ready' || (!text && documents.length === 0)) return;
  const message = { role: 'user', text, documents };
  messages.push(message);
  element('empty').hidden = true;
  show(message);
  save();
  documents = [];
  notice('');
  showDocuments();
  element('scroll').scrollTop = element('scroll').scrollHeight;
  answer();
}

function send() {
  if (element('send').hidden || element('send').disabled) return;
  ask(element('input').value.trim());
  element('input').value = '';
  resize();
}

// ---- Documents ----

function showDocuments() {
  element('documents').replaceChildren(...documents.map(d => {
    const item = make('li', '', d.name + (d.tokens === undefined ? '' : ` · ${count(d.tokens, 'token')}`));
    const remove = make('button', '', '×');
    remove.type = 'button';
    remove.title = 'Leave this document out';
    remove.addEventListener('click', () => { documents = documents.filter(other => other !== d); showDocuments(); });
    item.append(remove);
    return item;
  }));
}

async function addDocuments(files) {
  notice('');
  for (const file of files) {
    const added = { name: file.name, text: '' };
    try {
      added.text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
      if (added.text.includes('\0')) throw new Error();
    } catch {
      notice(`${file.name} is no plain text. Save it as a text file (UTF-8) first.`);
      continue;
    }
    documents.push(added);
    showDocuments();
    post('count', { text: added.text }).then(async response => { if (response.status === 200) { added.tokens = await response.json(); showDocuments(); } }, () => { });
  }
}

function notice(text) {
  element('notice').textContent = text;
  element('notice').hidden = !text;
  delete element('notice').dataset.lost;
}

function resize() {
  element('input').style.height = 'auto';
  element('input').style.height = element('input').scrollHeight + 'px';
}

element('form').addEventListener('submit', e => { e.preventDefault(); send(); });
element('stop').addEventListener('click', () => running?.abort());
element('new').addEventListener('click', clear);
element('model').addEventListener('click', choose);
element('chooseOther').addEventListener('click', choose);
element('stopLoading').addEventListener('click', () => post('stop-loading'));
element('cancel').addEventListener('click', () => element('chooser').close());
element('open').addEventListener('click', open);
element('path').addEventListener('change', () => showFolder(element('path').value));
element('attach').addEventListener('click', () => element('file').click());
element('file').addEventListener('change', () => { addDocuments([...element('file').files]); element('file').value = ''; });
element('input').addEventListener('input', resize);
element('input').addEventListener('keydown', e => {
  // Enter also ends the choice of a Chinese character.
  if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
  if (e.key === 'Escape') running?.abort();
});
// A reload in the middle of an answer keeps what was written. The browser may break its connection off before it hides the page: that is no error then.
addEventListener('beforeunload', () => { leaving = true; });
addEventListener('pagehide', () => {
  const last = messages.at(-1);
  if (!running || last?.role !== 'assistant') return;
  [last.writing, last.note] = [false, 'Stopped'];
  save();
});
addEventListener('dragover', e => { e.preventDefault(); element('drop').hidden = false; });
addEventListener('dragleave', e => { if (!e.relatedTarget) element('drop').hidden = true; });
addEventListener('drop', e => { e.preventDefault(); element('drop').hidden = true; addDocuments([...e.dataTransfer.files]); });
for (const question of ['Who are you?', 'What is the capital of Norway?', '你能做什么？']) {
  const button = make('button', '', question);
  button.type = 'button';
  button.addEventListener('click', () => ask(question));
  element('suggestions').append(button);
}

try { messages = JSON.parse(sessionStorage.getItem('messages')) ?? []; } catch { messages = []; }
messages.forEach(show);
watch();
