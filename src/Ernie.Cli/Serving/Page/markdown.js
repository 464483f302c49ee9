'use strict';
// What models write to structure an answer: fences of code, headings, lists, tables, bold and inline code. Everything becomes elements made here with text nodes in them; no text is ever parsed as HTML,
// links stay text, and whatever is not understood stands as it was written.

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const markdown = (() => {
  const fence = /^ {0,3}(`{3,}|~{3,})/;
  const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
  const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
  const separator = /^\s*\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*$/;
  const isTable = (line, next) => line.includes('|') && next !== undefined && next.includes('|') && next.includes('-') && separator.test(next);

  function inline(target, text) {
    let at = 0;
    for (const match of text.matchAll(/(`+)([^`\n]|[^`\n][^\n]*?[^`\n])\1(?!`)|\*\*(?=\S)([^\n]*?\S)\*\*/g)) {
      target.append(text.slice(at, match.index));
      if (match[1]) target.append(make('code', '', match[2]));
      else {
        const bold = make('strong');
        inline(bold, match[3]);
        target.append(bold);
      }
      at = match.index + match[0].length;
    }
    target.append(text.slice(at));
    return target;
  }

  const cells = line => line.trim().replace(/^\|/, '').replace(/\|$/, '').split('|').map(cell => cell.trim());

  function table(lines, at, target) {
    const made = make('table');
    const row = (tag, values, width) => {
      const line = make('tr');
      for (let i = 0; i < Math.max(width, values.length); i++) line.append(inline(make(tag), values[i] ?? ''));
      return line;
    };
    const head = cells(lines[at]);
    const top = make('thead');
    top.append(row('th', head, head.length));
    const body = make('tbody');
    for (at += 2; at < lines.length && lines[at].includes('|'); at++) body.append(row('td', cells(lines[at]), head.length));
    made.append(top, body);
    const frame = make('div', 'table');
    frame.append(made);
    target.append(frame);
    return at;
  }

  // Items that stand further to the right belong to the one above them.
  function list(lines, at, target) {
    const open = [];
    let last = null;
    for (; at < lines.length; at++) {
      const match = item.exec(lines[at]);
      if (!match) {
        if (last === null || !/^\s+\S/.test(lines[at])) break;
        last.append('\n');
        inline(last, lines[at].trim());
        continue;
      }
      const [, space, mark, text] = match;
      const tag = /\d/.test(mark) ? 'ol' : 'ul';
      while (open.length > 0 && open.at(-1).indent > space.length) open.pop();
      if (open.length === 0 || open.at(-1).indent < space.length || open.at(-1).tag !== tag) {
        if (open.length > 0 && open.at(-1).indent === space.length) open.pop();
        const made = make(tag);
        if (tag === 'ol') made.start = parseInt(mark, 10);
        (open.length > 0 ? open.at(-1).list.lastElementChild : target).append(made);
        open.push({ indent: space.length, tag, list: made });
      }
      last = inline(make('li'), text);
      open.at(-1).list.append(last);
    }
    return at;
  }

  function render(target, text) {
    target.replaceChildren();
    const lines = text.split('\n');
    for (let at = 0; at < lines.length;) {
      const line = lines[at];
      const code = fence.exec(line);
      if (code) {
        let end = at + 1;
        while (end < lines.length && !(lines[end].trim().startsWith(code[1]) && /^(`+|~+)$/.test(lines[end].trim()))) end++;
        const language = line.slice(code[0].length).trim();
        if (language) target.append(make('div', 'note', language));
        target.append(make('pre', '', lines.slice(at + 1, end).join('\n')));
        at = end + 1;
        continue;
      }
      const title = heading.exec(line);
      if (title) {
        // Not h1 to h6: the page has headings of its own.
        target.append(inline(make('div', 'heading'), title[2]));
        at++;
        continue;
      }
      if (isTable(line, lines[at + 1])) { at = table(lines, at, target); continue; }
      if (item.test(line)) { at = list(lines, at, target); continue; }
      if (line.trim() === '') { at++; continue; }
      let end = at + 1;
      while (end < lines.length && lines[end].trim() !== '' && !fence.test(lines[end]) && !heading.test(lines[end]) && !item.test(lines[end]) && !isTable(lines[end], lines[end + 1])) end++;
      target.append(inline(make('p'), lines.slice(at, end).join('\n')));
      at = end;
    }
  }

  return render;
})();
