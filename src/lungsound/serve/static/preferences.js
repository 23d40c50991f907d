// What the browser remembers between visits: the theme, and whether keys of one letter count.

const THEMES = { auto: "system", light: "light", dark: "dark" };
const byId = (id) => document.getElementById(id);

export const areLettersOn = () => byId("shortcuts").checked;

export function listenToPreferences(onTheme) {
  const root = document.documentElement;
  const setTheme = (theme) => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${THEMES[theme]}`;
    localStorage.setItem("theme", theme);
    onTheme();
  };
  const names = Object.keys(THEMES);
  const remembered = localStorage.getItem("theme");
  setTheme(names.includes(remembered) ? remembered : "auto");
  byId("theme").addEventListener("click", () => {
    setTheme(names[(names.indexOf(root.dataset.theme ?? "auto") + 1) % names.length]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onTheme);
  byId("shortcuts").checked = localStorage.getItem("shortcuts") !== "off";
  byId("shortcuts").addEventListener("change", ({ target }) => localStorage.setItem("shortcuts", target.checked ? "on" : "off"));
}
