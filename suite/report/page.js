'use strict';
const all = (css, from = document) => [...from.querySelectorAll(css)];
const jobs = document.getElementById('jobs'), rows = [...jobs.tBodies[0].rows];
const filters = document.getElementById('filters'), compare = document.getElementById('compare');

// a number sorts as a number, anything else as text; what is missing stays last
function sort(button) {
  const head = button.closest('th'), body = head.closest('table').tBodies[0];
  const sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
  all('th', head.parentElement).forEach(one => one.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
  const key = row => row.cells[head.cellIndex].dataset.v ?? '';
  const order = (a, b) => (a === '') - (b === '') || sign * (a - b || a.localeCompare(b, undefined, {numeric: true}));
  body.append(...[...body.rows].sort((a, b) => order(key(a), key(b))));
}

// a row, its run's card, its points and its differences are shown or hidden alike; so is a column without a value
function filter() {
  const words = filters.elements.find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = all('select', filters).filter(one => one.value);
  const hidden = new Set();
  for (const row of rows) {
    row.hidden = !words.every(word => row.dataset.find.includes(word))
      || !chosen.every(one => row.cells[one.dataset.cell].textContent === one.value);
    if (row.hidden) hidden.add(row.dataset.job);
  }
  all('[data-job]').forEach(one => { if (!rows.includes(one)) one.toggleAttribute('hidden', hidden.has(one.dataset.job)); });
  all('[data-jobs]').forEach(one => one.toggleAttribute('hidden', JSON.parse(one.dataset.jobs).some(job => hidden.has(job))));
  const shown = rows.filter(row => !row.hidden);
  for (const head of all('thead th.metric', jobs)) {
    const empty = shown.length > 0 && shown.every(row => row.cells[head.cellIndex].dataset.v === '');
    [head, ...rows.map(row => row.cells[head.cellIndex])].forEach(cell => { cell.hidden = empty; });
  }
  document.getElementById('shown').textContent = `${shown.length} of ${rows.length} jobs`;
  difference();
}

// what differs between the ticked rows, taken from their cards: settings, then metrics
function difference() {
  const ticked = rows.filter(row => row.querySelector('input').checked);
  rows.forEach(row => row.classList.toggle('chosen', ticked.includes(row)));
  const box = compare.querySelector('div');
  compare.hidden = ticked.length < 2;
  box.replaceChildren();
  if (compare.hidden) return;
  const cards = ticked.map(row => document.getElementById(row.dataset.card));
  for (const [kind, title] of [['setting', 'Settings'], ['metric', 'Metrics']]) {
    const facts = cards.map(card => new Map(all(`tr[data-${kind}]`, card).map(
      row => [row.dataset[kind], row.cells[1].textContent])));
    const keys = [...new Set(facts.flatMap(one => [...one.keys()]))].filter(
      key => new Set(facts.map(one => one.get(key))).size > 1);
    if (!keys.length) { box.append(node('p', {className: 'dim'}, `${title}: the same.`)); continue; }
    const head = node('tr', {}, node('th', {scope: 'col'}, title),
      ...ticked.map(row => node('th', {scope: 'col'}, `job ${row.dataset.job}`)));
    const body = keys.map(key => node('tr', {}, node('th', {scope: 'row'}, key),
      ...facts.map(one => node('td', {}, one.get(key) ?? '–'))));
    box.append(node('table', {}, node('thead', {}, head), node('tbody', {}, ...body)));
  }
}

function node(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

all('th button').forEach(button => button.addEventListener('click', () => sort(button)));
filters.addEventListener('input', filter);
filters.addEventListener('reset', () => setTimeout(filter));
filters.addEventListener('submit', event => event.preventDefault());
jobs.addEventListener('change', difference);
compare.querySelector('button').addEventListener('click', () => {
  all('input:checked', jobs).forEach(box => { box.checked = false; });
  difference();
});
// a link to a run's card opens it
function unfold() {
  const card = document.getElementById(location.hash.slice(1));
  if (card && card.tagName === 'DETAILS') { card.open = true; card.scrollIntoView(); }
}
window.addEventListener('hashchange', unfold);
filters.hidden = false;
filter();
unfold();
