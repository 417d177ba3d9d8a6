// A run, as its events tell it: plain data, no document. One event changes one run; replaying the events gives it again.

function newRun() {
  return { problem: "", config: {}, paths: [], votes: [], solution: null, error: null, longest: 0, hues: new Map() };
}

function pathOf(run, index) {
  for (let i = run.paths.length; i <= index; i++) {
    run.paths.push({ index: i, status: "waiting", reason: "", tokens: 0, score: null, scores: [], steps: [], explored: [], answer: null });
  }
  return run.paths[index];
}

// Samples that drew the same token are one candidate; the heaviest comes first.
function summed(candidates) {
  const weights = new Map();
  for (const [text, weight] of candidates) weights.set(text, (weights.get(text) || 0) + weight);
  return [...weights].sort((a, b) => b[1] - a[1]);
}

function reduce(run, event) {
  const change = CHANGES[event.event || (event.error ? "error" : "")];
  if (change) change(run, event); // what a newer server tells beside this is not ours to show
}

const CHANGES = {
  started(run, event) {
    run.problem = event.problem;
    run.config = event.config || {};
    if (event.paths > 0) pathOf(run, event.paths - 1);
  },
  tokens(run, event) {
    const path = pathOf(run, event.path);
    const answering = event.phase === "answer";
    if (event.steps) {
      let at = event.tokens - event.steps.length;
      for (const step of event.steps) {
        at += 1;
        const candidates = summed(step.candidates || []);
        const explores = candidates.length > 1;
        path.steps.push({ at, text: step.text, entropy: step.entropy, candidates, explores, answering });
        if (explores) path.explored.push(at);
      }
    } else if (event.tokens > path.tokens || !path.steps.length) {
      path.steps.push({ at: event.tokens, text: event.text, candidates: [], explores: false, answering });
    } else if (answering) {
      // Its steps came with the thinking before it, in one event: those that spell it are the answer.
      for (let i = path.steps.length - 1, left = event.text.trim().length; i >= 0 && left > 0; i--) {
        path.steps[i].answering = true;
        left -= path.steps[i].text.length;
      }
    }
    path.status = "running";
    path.tokens = event.tokens;
    run.longest = Math.max(run.longest, path.tokens);
  },
  score(run, event) {
    const path = pathOf(run, event.path);
    path.score = event.score;
    path.scores.push([event.tokens, event.score]);
  },
  stopped(run, event) {
    const path = pathOf(run, event.path);
    Object.assign(path, { status: event.status, reason: event.reason || "", tokens: event.tokens, answer: event.answer ?? null });
    run.longest = Math.max(run.longest, path.tokens);
    colour(run, path.answer);
  },
  votes(run, event) {
    run.votes = event.votes;
    for (const vote of run.votes) colour(run, vote.answer);
  },
  solution(run, event) {
    run.solution = event;
    run.votes = event.votes || run.votes;
    run.config = event.config || run.config;
    for (const told of event.paths || []) {
      const path = pathOf(run, told.index);
      Object.assign(path, { status: told.status, answer: told.answer ?? null, reason: told.reason || path.reason, trust: told.trust });
      if (typeof told.score === "number") path.score = told.score;
    }
  },
  error(run, event) {
    run.error = (event.error && event.error.message) || "the server reported an error";
  },
};

const counted = (run, status) => run.paths.filter((path) => path.status === status).length;
const spent = (run) => run.paths.reduce((sum, path) => sum + path.tokens, 0);

// Scores have no upper end with some scorers (DeepConf's confidences): they are then drawn up to the highest one.
function highest(run) {
  let most = 1;
  for (const path of run.paths) for (const [, score] of path.scores) most = Math.max(most, score);
  return most;
}

// The colour of an answer is its number here: by who gave it first, so that no colour changes in a race.
function colour(run, answer) {
  if (answer !== null && !run.hues.has(answer)) run.hues.set(answer, run.hues.size);
}

// What most paths say, where the vote by scores says something else.
function upset(votes) {
  const most = votes.reduce((best, vote) => (best === null || vote.paths > best.paths ? vote : best), null);
  return most && most.paths > votes[0].paths ? most : null;
}

// The server's events, one by one, from a response whose body is a stream of `data:` lines.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest = (rest + (value || "")).replaceAll("\r\n", "\n");
    const blocks = rest.split("\n\n");
    rest = done ? "" : blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
    if (done) return;
  }
}
