/* The passage to explore. The element #data holds this JSON document:

   unit        the name of a token: character, word or token
   lineBreak   the sign for a line break
   space       the sign for a space
   scaleTop    the surprise, in bits, at the end of the colour scale
   texts       [text shown, name] of each token that occurs
   openAt      by split: the position that the panel shows first
   passages    by split: the tokens, as places in texts
   models      by variant: timeConstant, meanUpdate and meanReset of each unit (null: infinite), and
               readings by split: surprise (null: not predicted) and alternatives, [token,
               probability], of each position; update and reset, a byte for each position and
               unit, 255 for 1, in base64 */

{
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("controls");
  const { unit: unitInput, rank, order } = form.elements;
  const [reader, passage, detail, unitControls, unitFacts] = [
    "reader", "passage", "detail", "unit-controls", "unit-facts",
  ].map((id) => document.getElementById(id));

  let tokens = []; // the elements of the passage
  let current = 0; // the position shown in the panel

  const model = () => data.models[form.elements.model.value];
  const reading = () => model().readings[form.elements.passage.value];
  const view = () => form.elements.view.value;
  const numberOfUnits = () => model().timeConstant.length;
  const unit = () => Math.min(Math.max(Math.trunc(unitInput.valueAsNumber) || 0, 0), numberOfUnits() - 1);

  /* An element with attributes (className and other properties) and children. */
  function make(name, properties = {}, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  }

  const gates = new Map(); // base64 to bytes, decoded at first use

  function gate(kind, position) {
    const text = reading()[kind];
    if (!gates.has(text)) gates.set(text, Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
    return gates.get(text)[position * numberOfUnits() + unit()] / 255;
  }

  /* The place of a position on the colour scale, from 0 to 1; null if the token was not predicted. */
  function place(position) {
    if (view() !== "surprise") return gate(view(), position);
    const bits = reading().surprise[position];
    return bits === null ? null : Math.min(bits / data.scaleTop, 1);
  }

  function percent(probability) {
    const value = 100 * probability;
    if (value < 0.01) return "< 0.01 %";
    return `${value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0)} %`;
  }

  const rounded = (value) => (value === null ? "∞" : value.toPrecision(3));

  function drawPassage() {
    const split = form.elements.passage.value;
    const words = data.unit === "word";
    tokens = data.passages[split].map((number, position) => {
      const [text, name] = data.texts[number];
      const token = make("span", { textContent: text, tabIndex: -1 });
      token.setAttribute("role", "option");
      token.dataset.position = position;
      if (text !== name) token.setAttribute("aria-label", name);
      return token;
    });
    passage.classList.toggle("words", words);
    passage.setAttribute("aria-label", `${split === "train" ? "Training" : "Validation"} text`);
    passage.replaceChildren();
    for (const token of tokens) {
      if (token.textContent.length > 1 && token.textContent.startsWith(data.space)) passage.append(make("wbr"));
      passage.append(token);
      if (token.textContent === data.lineBreak) passage.append(make("br"));
      else if (words) passage.append(" ");
      else if (token.textContent === data.space) passage.append(make("wbr"));
    }
    current = data.openAt[split];
  }

  function colour() {
    reader.dataset.scale = view() === "surprise" ? "surprise" : "gate";
    tokens.forEach((token, position) => {
      const value = place(position);
      token.classList.toggle("blank", value === null);
      token.style.setProperty("--value", value ?? 0);
    });
  }

  function drawLegend() {
    const [name, ticks] = {
      surprise: ["Surprise in bits", surpriseTicks()],
      update: ["Update gate", [[0, "0 replace"], [0.5, "0.5"], [1, "1 keep"]]],
      reset: ["Reset gate", [[0, "0 hide"], [0.5, "0.5"], [1, "1 use"]]],
    }[view()];
    document.getElementById("legend-name").textContent = name;
    document.getElementById("legend-ticks").replaceChildren(
      ...ticks.map(([value, text]) => {
        const tick = make("span", { textContent: text });
        tick.style.left = `${100 * value}%`;
        return tick;
      }),
    );
  }

  function surpriseTicks() {
    const top = data.scaleTop;
    const ticks = [0, 0.25, 0.5, 0.75].map((part) => [part, `${part * top}`]);
    return [...ticks, [1, `≥ ${top}`]];
  }

  function describeUnit() {
    unitControls.hidden = view() === "surprise";
    const { timeConstant, meanUpdate, meanReset } = model();
    const number = unit();
    unitFacts.textContent =
      `Time constant ${rounded(timeConstant[number])} ${data.unit}s, ` +
      `mean update gate ${rounded(meanUpdate[number])}, mean reset gate ${rounded(meanReset[number])}`;
  }

  /* The numbers of the units in the slider's order. */
  function unitOrder() {
    const numbers = [...Array(numberOfUnits()).keys()];
    if (order.value === "number") return numbers;
    const time = model().timeConstant.map((value) => value ?? Infinity);
    return numbers.sort((a, b) => (time[a] === time[b] ? a - b : time[a] - time[b]));
  }

  /* Show a position in the panel. */
  function show(position) {
    tokens[current].tabIndex = -1;
    tokens[current].setAttribute("aria-selected", "false");
    current = position;
    tokens[current].tabIndex = 0;
    tokens[current].setAttribute("aria-selected", "true");
    const number = data.passages[form.elements.passage.value][position];
    const bits = reading().surprise[position];
    const [text, name] = data.texts[number];
    const facts = make("p", { className: "facts" }, make("span", { className: "token", textContent: text }));
    if (text !== name) facts.append(make("span", { className: "aside", textContent: name }));
    facts.append(bits === null ? "not predicted, as nothing comes before it" : `${bits.toFixed(2)} bits`);
    const where = `${data.unit} ${position + 1} of ${tokens.length}`;
    detail.replaceChildren(facts, make("p", { className: "aside", textContent: where }));
    if (view() !== "surprise") {
      const value = gate(view(), position).toFixed(2);
      detail.append(make("p", { textContent: `${view()} gate of unit ${unit()}: ${value}` }));
    }
    if (bits !== null) detail.append(alternatives(position, number, 2 ** -bits));
  }

  /* The most probable tokens with their bars, and the actual token if it is not one of them. */
  function alternatives(position, came, probability) {
    const rows = reading().alternatives[position];
    const missing = rows.every(([number]) => number !== came);
    return make("ol", {}, ...(missing ? [...rows, [came, probability]] : rows).map(([number, share]) => {
      const [text, name] = data.texts[number];
      const bar = make("i");
      bar.style.width = `${100 * share}%`;
      const token = make("b", { textContent: text, title: name, dir: "auto" });
      const row = make("li", { className: number === came ? "came" : "" }, token,
        make("span", { className: "bar" }, bar), make("span", { textContent: percent(share) }));
      return row;
    }));
  }

  /* The horizontally nearest token on the line above (-1) or below (1). */
  function onNextLine(from, direction) {
    const centre = (token) => token.offsetLeft + token.offsetWidth / 2;
    let best = from;
    let line = null;
    for (let i = from + direction; i >= 0 && i < tokens.length; i += direction) {
      const top = tokens[i].offsetTop;
      if (Math.abs(top - tokens[from].offsetTop) < 4) continue;
      if (line === null) [line, best] = [top, i];
      if (Math.abs(top - line) > 4) break;
      const distance = (j) => Math.abs(centre(tokens[j]) - centre(tokens[from]));
      if (distance(i) < distance(best)) best = i;
    }
    return best;
  }

  function go(event) {
    const from = tokens.indexOf(document.activeElement);
    if (from < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const forwards = getComputedStyle(passage).direction === "rtl" ? -1 : 1;
    const to = {
      ArrowRight: () => from + forwards,
      ArrowLeft: () => from - forwards,
      ArrowDown: () => onNextLine(from, 1),
      ArrowUp: () => onNextLine(from, -1),
      Home: () => 0,
      End: () => tokens.length - 1,
    }[event.key];
    if (!to) return;
    event.preventDefault();
    tokens[Math.min(Math.max(to(), 0), tokens.length - 1)].focus();
  }

  function positionOf(event) {
    const token = event.target.closest("[role=option]");
    return token && Number(token.dataset.position);
  }

  function look(event) {
    const position = positionOf(event);
    if (position !== null && position !== current) show(position);
  }

  /* Redraw everything as the form's settings require. */
  function update(event) {
    if (event?.target === unitInput && !unitInput.value) return; // being typed
    const numbers = unitOrder();
    if (event?.target === rank) unitInput.value = numbers[rank.valueAsNumber];
    unitInput.max = rank.max = numberOfUnits() - 1;
    rank.value = numbers.indexOf(unit());
    if (!event || event.target.name === "passage") drawPassage();
    describeUnit();
    drawLegend();
    colour();
    show(current);
  }

  function step(by) {
    const numbers = unitOrder();
    const next = (numbers.indexOf(unit()) + by + numbers.length) % numbers.length;
    unitInput.value = numbers[next];
    update({ target: unitInput });
  }

  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  passage.addEventListener("pointerover", look);
  passage.addEventListener("click", look);
  passage.addEventListener("focusin", look);
  passage.addEventListener("keydown", go);

  reader.hidden = false;
  unitInput.value = unitOrder().at(-1); // the unit with the longest memory
  update();
}
