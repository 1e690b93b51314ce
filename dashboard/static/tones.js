// The tone in the style sheet for each condition of a run.

export const TONES = {
  running: "good",
  solved: "done",
  waiting: "calm",
  paused: "calm",
  stalled: "warn",
  interrupted: "warn",
  finished: "done",
  stopped: "warn",
  failed: "bad",
};
