// How a run's condition looks: one word of the server's, one of the style sheet's.

export const TONES = {
  running: "good",
  solved: "done",
  waiting: "calm",
  paused: "calm",
  stalled: "warn",
  interrupted: "warn",
  "not solved": "warn",
};
