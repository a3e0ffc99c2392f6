// A page that stands alone: the scene is in the page, and nothing is asked of anybody.

function watchTheme(studio) {
  const wanted = matchMedia("(prefers-color-scheme: dark)");
  const chosen = document.documentElement.dataset.theme;
  const apply = () => {
    const theme = document.documentElement.dataset.theme ?? chosen;
    studio.setTheme(theme ? theme === "dark" : wanted.matches);
  };
  wanted.addEventListener("change", apply);
  new MutationObserver(apply).observe(document.documentElement, {
    attributeFilter: ["data-theme"],
  });
  apply();
}

function startPage(root) {
  const scene = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  root.replaceChildren();
  const source = new LocalSource(scene);
  const studio = new Studio(root, scene, source);
  studio.attach(new CanvasDots(studio.ground, scene, source.planes));
  watchTheme(studio);
  studio.begin();
  root.studio = studio; // For tests, and for people who look inside
}

for (const root of document.querySelectorAll(".contrec-studio-page")) startPage(root);
