// Light or dark, set before the first paint: the choice of the reader, else that of the system.
"use strict";
{
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const chosen = () => {
    try {
      return localStorage.getItem("fedmq-theme");
    } catch {
      return null; // storage is disabled
    }
  };
  const apply = () => {
    const theme = chosen() ?? (system.matches ? "dark" : "light");
    root.dataset.theme = theme;
    document.querySelector("#theme")?.setAttribute("aria-pressed", String(theme === "dark"));
    dispatchEvent(new Event("theme"));
  };
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.querySelector("#theme").addEventListener("click", () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("fedmq-theme", theme);
      } catch {
        root.dataset.theme = theme;
      }
      apply();
    });
  });
}
