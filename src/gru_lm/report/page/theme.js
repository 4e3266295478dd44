"use strict";

/* The button that switches between the light and the dark theme. Until then the system decides. */
{
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const dark = () => (chosen === null ? system.matches : chosen === "dark");
  const label = () => (button.textContent = dark() ? "Light page" : "Dark page");
  button.addEventListener("click", () => {
    chosen = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    label();
  });
  system.addEventListener("change", label);
  button.hidden = false;
  label();
}
