// One path, opened: its score, and its text step by step, each merged step with the candidates that it weighed.

const SPECIAL = /^(<\|[^|<>]*\|>|<\/?think>)$/; // what only the model needs: ends of turns, tags of thinking
const opened = { index: null, run: null, shown: 0, lane: null };

function openPath(run, index) {
  opened.run = run;
  if (opened.index !== index || !$("path").open) {
    Object.assign(opened, { index, shown: 0 });
    for (const id of ["thinking", "answering", "step"]) $(id).replaceChildren();
  }
  if (!opened.lane) {
    opened.lane = new Lane();
    opened.cursor = make("i", "cursor");
    opened.cursor.hidden = true;
    opened.lane.node.append(opened.cursor);
    $("path-lane").append(opened.lane.node);
  }
  drawPath(run);
  if (!$("path").open) {
    $("path").showModal();
    $("path-title").focus();
  }
}

// Draw what is new of the path that is open; all of it when the run is another one, or went back in time.
function drawPath(run) {
  if (opened.index === null || !run.paths[opened.index]) return;
  const path = run.paths[opened.index];
  if (run !== opened.run || path.steps.length < opened.shown) {
    Object.assign(opened, { run, shown: 0 });
    for (const id of ["thinking", "answering"]) $(id).replaceChildren();
  }
  for (; opened.shown < path.steps.length; opened.shown++) {
    const step = path.steps[opened.shown];
    append($(step.answering ? "answering" : "thinking"), step);
  }
  $("path-title").textContent = `Path ${path.index}`;
  $("path-state").textContent = stateOf(path);
  opened.lane.draw(path, Math.max(8, path.tokens * 1.02), highest(run));
  $("path-lane").className = `big-lane ${hueClass(run, path.answer)} ${path.status}`;
  $("answer-title").hidden = !$("answering").hasChildNodes();
  $("thinking-title").hidden = !$("thinking").hasChildNodes();
  $("path-before").disabled = path.index === 0;
  $("path-after").disabled = path.index === run.paths.length - 1;
}

function stateOf(path) {
  const ended = path.status === "finished" ? "finished" : `${ENDS[path.status] || path.status}${path.reason ? ` by ${path.reason}` : ""}`;
  return [ended, path.answer !== null ? `answer ${path.answer}` : "", path.score === null ? "" : `score ${path.score.toFixed(2)}`,
    plural(path.tokens, "token"), plural(path.explored.length, "step") + " explored", path.trust || ""].filter(Boolean).join(" · ");
}

function append(box, step) {
  const special = SPECIAL.test(step.text);
  if (!step.explores) {
    if (special) return;
    if (box.lastChild && box.lastChild.nodeType === Node.TEXT_NODE) box.lastChild.data += step.text;
    else box.append(step.text);
    return;
  }
  const node = make("button", "merge");
  node.type = "button";
  node.tabIndex = box.querySelector(".merge") ? -1 : 0; // one stop of the Tab key; the arrows go on from there
  node.step = step;
  node.setAttribute("aria-label", `step ${step.at}, ${visible(step.text)}: ${step.candidates.map(([text, weight]) => `${visible(text)} ${percent(weight)}`).join(", ")}`);
  node.append(make("span", "emitted", special ? "" : visible(step.text)));
  const stack = make("span", "stack");
  for (const [text, weight] of step.candidates) {
    const one = make("span", text === step.text ? "drawn" : "", visible(text));
    one.style.setProperty("--weight", weight);
    stack.append(one);
  }
  node.append(stack);
  box.append(node);
  if (step.text.includes("\n")) box.append("\n");
}

const visible = (text) => (text === "" ? "∅" : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (spaces) => "␣".repeat(spaces.length)));
const percent = (weight) => `${(weight < 0.01 || weight > 0.99) && weight !== 1 ? (100 * weight).toFixed(1) : Math.round(100 * weight)} %`;

// The panel at the foot: the candidates of one merged step, with their weights.
function showStep(step) {
  const head = make("p", "step-head", `Step ${step.at} mixes ${step.candidates.length} candidates`);
  if (typeof step.entropy === "number") head.append(make("span", "hint", `entropy ${step.entropy.toFixed(2)} nats`));
  const list = make("ol", "weights");
  for (const [text, weight] of step.candidates) {
    const node = make("li");
    const bar = make("span", "bar-of");
    bar.append(make("i"));
    bar.firstChild.style.width = `${100 * weight}%`;
    node.append(make("code", "", visible(text)), bar, make("span", "vote-figure", percent(weight)));
    list.append(node);
  }
  $("step").replaceChildren(head, list);
  opened.cursor.hidden = false;
  opened.cursor.style.left = `${(100 * step.at) / Math.max(8, opened.run.paths[opened.index].tokens * 1.02)}%`;
}

function move(by) {
  const merges = [...$("path").querySelectorAll(".merge")];
  if (!merges.length) return;
  const at = merges.indexOf(document.activeElement);
  const to = merges[at < 0 ? (by > 0 ? 0 : merges.length - 1) : Math.min(merges.length - 1, Math.max(0, at + by))];
  to.focus();
  to.scrollIntoView({ block: "nearest" });
}

function turn(by) {
  const to = opened.index + by;
  if (opened.run.paths[to]) openPath(opened.run, to);
  $("path-title").focus();
}

$("path").addEventListener("focusin", (event) => {
  const merge = event.target.closest(".merge");
  for (const one of $("path").querySelectorAll(".merge.at")) one.classList.remove("at");
  if (merge) {
    merge.classList.add("at");
    showStep(merge.step);
  }
});
$("path").addEventListener("pointerover", (event) => {
  const merge = event.target.closest(".merge");
  if (merge && event.pointerType === "mouse") showStep(merge.step);
});
$("path").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const act = { ArrowRight: () => move(1), ArrowLeft: () => move(-1), n: () => turn(1), p: () => turn(-1) }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});
$("path").addEventListener("click", (event) => {
  if (event.target === $("path")) $("path").close(); // beside the sheet
});
$("path").addEventListener("close", () => {
  const index = opened.index;
  opened.index = null;
  opened.cursor.hidden = true;
  if (rows[index]) rows[index].button.focus();
});
$("path").addEventListener("click", (event) => {
  const merge = event.target.closest(".merge");
  if (merge) merge.focus(); // not every browser focuses a button that is clicked
});
$("path-close").addEventListener("click", () => $("path").close());
$("path-before").addEventListener("click", () => turn(-1));
$("path-after").addEventListener("click", () => turn(1));
$("stacked").addEventListener("change", () => $("path").classList.toggle("unstacked", !$("stacked").checked));
