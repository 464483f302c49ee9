'use strict';
// The chat page of "ernie serve". All text of people and models becomes text nodes: nothing in an answer is ever parsed as HTML.

const element = id => document.getElementById(id);
const settings = ['instructions', 'temperature', 'maxTokens', 'apiKey'];
let conversations = [];
let current = null;
let documents = [];
let running = null;
let leaving = false;   // the browser is about to leave or reload this page
let contextLength = 0;
let modelId = null;
// Models that know little are asked what they know.
const examples = { 'ernie-tiny-moe': ['What is the capital of Norway?', 'What is 7 plus 8?', 'Who are you?', '你能做什么？'] };
const keyIsWanted = 'This server wants an API key: the one that it was started with (--api-key or ERNIE_API_KEY). Enter it under Settings.';

function load() {
  try { conversations = JSON.parse(localStorage.getItem('ernie.conversations')) ?? []; } catch { conversations = []; }
  for (const name of settings) {
    element(name).value = localStorage.getItem('ernie.' + name) ?? '';
    element(name).addEventListener('change', () => { localStorage.setItem('ernie.' + name, element(name).value); if (name === 'apiKey') readModel(); });
  }
}

function save() {
  // The browser's store is small: the oldest conversations go first.
  for (let kept = conversations; ; kept = kept.slice(0, -1)) {
    try { localStorage.setItem('ernie.conversations', JSON.stringify(kept)); return; } catch { if (kept.length === 0) return; }
  }
}

function headers() {
  const key = element('apiKey').value;
  return { 'Content-Type': 'application/json', ...(key ? { Authorization: 'Bearer ' + key } : {}) };
}

// What a browser says of a server that is gone helps nobody.
async function ask(path, options) {
  try { return await fetch(path, options); } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new Error('The server does not answer. Is ernie serve still running?');
  }
}

async function failure(response) {
  if (response.status === 401) {
    const isMissing = !element('apiKey').value;
    wantKey(isMissing ? keyIsWanted : 'The API key is wrong. Correct it under Settings.');
    return isMissing ? keyIsWanted : 'The API key is wrong.';
  }
  try { return (await response.json()).error.message; } catch { return `The server answered ${response.status}.`; }
}

function wantKey(why) {
  [element('notice').textContent, element('notice').hidden] = [why, false];
  element('settings').open = true;
  showMenu(true);
  element('apiKey').focus();
}

// The side of a narrow window; a wide one shows it always.
function showMenu(isOpen) {
  document.body.classList.toggle('menu', isOpen);
  element('menu').setAttribute('aria-expanded', isOpen);
}

async function readModel() {
  try {
    const response = await ask('v1/models', { headers: headers() });
    if (!response.ok) throw new Error(await failure(response));
    const model = (await response.json()).data[0];
    [modelId, contextLength] = [model.id, model.max_model_len];
    element('model').textContent = modelId;
    document.title = modelId;
    if (!element('notice').hidden) showMenu(false);
    element('notice').hidden = true;
    showContext();
    showWelcome();
  } catch (e) {
    element('model').textContent = e.message === keyIsWanted ? 'An API key is needed' : e.message;
  }
}

function showWelcome() {
  element('messages').querySelector('.welcome')?.remove();
  if (current || !examples[modelId]) return;
  const welcome = make('div', 'welcome');
  welcome.append(make('p', '', 'This tiny model knows only what it was trained on. Ask for example:'), ...examples[modelId].map(question => {
    const button = make('button', '', question);
    button.type = 'button';
    button.addEventListener('click', () => { element('input').value = question; send(); });
    return button;
  }));
  element('messages').append(welcome);
}

const count = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;

// Tokens of a short answer come in one packet; the time between them says nothing then.
const rate = (tokens, milliseconds) => milliseconds < 20 ? undefined : (tokens - 1) / milliseconds * 1000;

function describe(message) {
  const notes = [];
  if (message.usage) {
    const { prompt_tokens: prompt, completion_tokens: answer, prompt_tokens_details: details } = message.usage;
    notes.push(`${count(prompt, 'prompt token')}${details.cached_tokens ? ` (${details.cached_tokens.toLocaleString('en')} cached)` : ''}`, count(answer, 'token'));
  } else if (message.pieces) notes.push(`about ${count(message.pieces, 'token')}`);
  if (message.rate) notes.push(`${message.rate.toFixed(1)} tokens/s`);
  if (message.finish === 'length') notes.push('cut at the limit of tokens');
  if (message.finish === 'stopped') notes.push('stopped');
  return notes.join(' · ');
}

function show(message) {
  const view = make('article', 'message ' + message.role);
  const parts = { view };
  if (message.role === 'assistant') {
    parts.reasoning = make('details');
    parts.thought = make('div', 'text');
    parts.reasoning.append(make('summary', '', 'Reasoning'), parts.thought);
    view.append(parts.reasoning);
  }
  parts.text = make('div', message.role === 'assistant' ? 'text answer' : 'text');
  view.append(parts.text);
  if (message.documents?.length) view.append(make('div', 'note documents', message.documents.map(d => d.name).join(', ')));
  parts.error = make('div', 'error');
  parts.note = make('div', 'note');
  view.append(parts.error, parts.note);
  element('messages').append(view);
  update(message, parts);
  return parts;
}

function update(message, parts) {
  const list = element('messages');
  const follows = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  if (parts.reasoning) {
    parts.reasoning.hidden = !message.reasoning;
    parts.thought.textContent = message.reasoning ?? '';
  }
  // What a person wrote stands as it was written.
  if (message.role === 'assistant') markdown(parts.text, message.text); else parts.text.textContent = message.text;
  parts.error.textContent = message.error ?? '';
  parts.note.textContent = message.waiting ? 'Reading the prompt …' : describe(message);
  if (follows) list.scrollTop = list.scrollHeight;
}

function showList() {
  element('conversations').replaceChildren(...conversations.map(conversation => {
    const item = make('li', conversation === current ? 'current' : '');
    const open = make('button', '', conversation.title);
    open.type = 'button';
    open.title = conversation.title;
    open.addEventListener('click', () => choose(conversation));
    const remove = make('button', '', '×');
    remove.type = 'button';
    remove.title = 'Delete this conversation';
    remove.addEventListener('click', () => {
      conversations = conversations.filter(c => c !== conversation);
      save();
      if (conversation === current) choose(null); else showList();
    });
    item.append(open, remove);
    return item;
  }));
}

function showContext() {
  const last = current?.messages.findLast(m => m.usage)?.usage;
  element('context').textContent = contextLength ? `${(last?.total_tokens ?? 0).toLocaleString('en')} of ${contextLength.toLocaleString('en')} tokens` : '';
}

// A reload of this tab shows the same conversation again.
function remember() {
  if (current) sessionStorage.setItem('ernie.current', current.id ??= Date.now().toString(36) + Math.random().toString(36).slice(2));
  else sessionStorage.removeItem('ernie.current');
}

function choose(conversation) {
  running?.abort();
  current = conversation;
  remember();
  showMenu(false);
  element('messages').replaceChildren();
  current?.messages.forEach(show);
  element('messages').scrollTop = element('messages').scrollHeight;
  showWelcome();
  showList();
  showContext();
  element('input').focus();
}

function showDocuments() {
  element('documents').replaceChildren(...documents.map(d => {
    const item = make('li', '', `${d.name}${d.tokens === undefined ? '' : ` (${count(d.tokens, 'token')})`}`);
    const remove = make('button', '', '×');
    remove.type = 'button';
    remove.title = 'Leave this document out';
    remove.addEventListener('click', () => { documents = documents.filter(other => other !== d); showDocuments(); });
    item.append(remove);
    return item;
  }));
}

async function addDocuments(files) {
  for (const file of files) {
    const added = { name: file.name, text: '' };
    try {
      added.text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
      if (added.text.includes('\0')) throw new Error();
    } catch {
      alert(`${file.name} is no text in UTF-8. Save it as plain text first.`);
      continue;
    }
    documents.push(added);
    showDocuments();
    ask('tokenize', { method: 'POST', headers: headers(), body: JSON.stringify({ prompt: added.text }) })
      .then(async response => { if (response.ok) { added.tokens = (await response.json()).count; showDocuments(); } }, () => { });
  }
}

function requestOf(conversation) {
  const messages = [];
  const instructions = element('instructions').value.trim();
  if (instructions) messages.push({ role: 'system', content: instructions });
  for (const message of conversation.messages) {
    if (message.role === 'user') messages.push({ role: 'user', content: [...(message.documents ?? []).map(d => d.text.trimEnd()), message.text].join('\n\n') });
    else if (message.text) messages.push({ role: 'assistant', content: message.text });
    // Templates take questions and answers in turn: a question without an answer is left out.
    else if (messages.at(-1)?.role === 'user') messages.pop();
  }
  const [temperature, most] = [element('temperature').valueAsNumber, element('maxTokens').valueAsNumber];
  return {
    model: modelId, messages, stream: true, stream_options: { include_usage: true },
    ...(Number.isNaN(temperature) ? {} : { temperature }), ...(Number.isNaN(most) ? {} : { max_tokens: most }),
  };
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = '';
  for (; ;) {
    const { done, value } = await reader.read().catch(e => { throw e.name === 'AbortError' ? e : new Error('The connection to the server broke.'); });
    if (done) throw new Error('The connection ended before the answer did.');
    const lines = (held + value).split('\n');
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith('data: ')) continue;
      if (line === 'data: [DONE]') return;
      yield JSON.parse(line.slice(6));
    }
  }
}

async function answer(conversation) {
  const body = JSON.stringify(requestOf(conversation));
  const message = { role: 'assistant', text: '', reasoning: '', waiting: true, pieces: 0 };
  conversation.messages.push(message);
  const parts = show(message);
  const cancellation = running = new AbortController();
  element('send').hidden = true;
  element('stop').hidden = false;
  let first = 0, last = 0, drawn = 0;
  // A fast model writes more often than a screen shows.
  const draw = () => { drawn ||= requestAnimationFrame(() => { drawn = 0; update(message, parts); }); };
  try {
    const response = await ask('v1/chat/completions', { method: 'POST', headers: headers(), body, signal: cancellation.signal });
    if (!response.ok) throw new Error(await failure(response));
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) message.usage = event.usage;
      const choice = event.choices[0];
      if (!choice) continue;
      const { content, reasoning_content: reasoning } = choice.delta;
      if (content || reasoning) {
        last = performance.now();
        first ||= last;
        message.waiting = false;
        message.pieces++;
        message.text += content ?? '';
        message.reasoning += reasoning ?? '';
        message.rate = rate(message.pieces, last - first);
      }
      if (choice.finish_reason) message.finish = choice.finish_reason;
      draw();
    }
    message.rate = rate(message.usage?.completion_tokens ?? message.pieces, last - first);
  } catch (e) {
    if (cancellation.signal.aborted || leaving) message.finish = 'stopped'; else message.error = e.message;
  }
  message.waiting = false;
  cancelAnimationFrame(drawn);
  update(message, parts);
  save();
  showContext();
  if (running === cancellation) {
    running = null;
    element('send').hidden = false;
    element('stop').hidden = true;
    element('input').focus();
  }
}

function send() {
  const text = element('input').value.trim();
  if (running || (!text && documents.length === 0)) return;
  if (!current) {
    current = { title: (text || documents[0].name).slice(0, 60), messages: [] };
    conversations.unshift(current);
    remember();
    showWelcome();
  }
  const message = { role: 'user', text, documents };
  current.messages.push(message);
  show(message);
  element('messages').scrollTop = element('messages').scrollHeight;
  documents = [];
  element('input').value = '';
  resize();
  showDocuments();
  showList();
  save();
  answer(current);
}

function resize() {
  element('input').style.height = 'auto';
  element('input').style.height = element('input').scrollHeight + 2 + 'px';
}

element('form').addEventListener('submit', e => { e.preventDefault(); send(); });
element('stop').addEventListener('click', () => running?.abort());
element('menu').addEventListener('click', () => showMenu(!document.body.classList.contains('menu')));
document.querySelector('main').addEventListener('click', e => { if (e.target !== element('menu')) showMenu(false); });
addEventListener('keydown', e => { if (e.key === 'Escape') showMenu(false); });
element('new').addEventListener('click', () => choose(null));
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
  const last = current?.messages.at(-1);
  if (!running || last?.role !== 'assistant') return;
  [last.waiting, last.finish] = [false, 'stopped'];
  save();
});
addEventListener('dragover', e => { e.preventDefault(); element('drop').hidden = false; });
addEventListener('dragleave', e => { if (!e.relatedTarget) element('drop').hidden = true; });
addEventListener('drop', e => { e.preventDefault(); element('drop').hidden = true; addDocuments([...e.dataTransfer.files]); });

load();
choose(conversations.find(c => c.id && c.id === sessionStorage.getItem('ernie.current')) ?? null);
readModel();
