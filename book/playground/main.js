// Tabs, and the start.

const TABS = ["digits", "teacher", "cartpole"];

async function main() {
  const data = readData();
  const worker = new Worked();
  const tabs = {
    digits: new DigitsTab(worker, data),
    teacher: new TeacherTab(worker),
    cartpole: new CartpoleTab(worker, data),
  };
  await worker.ask("start", data);
  say("");

  function open(name) {
    for (const other of TABS) {
      byId(other).hidden = other !== name;
      byId(`tab-${other}`).setAttribute("aria-selected", String(other === name));
      byId(`tab-${other}`).tabIndex = other === name ? 0 : -1;
      if (other !== name) tabs[other].player?.pause();
    }
    say("");
    tabs[name].open();
  }

  TABS.forEach((name, i) => {
    const button = byId(`tab-${name}`);
    button.addEventListener("click", () => {
      history.replaceState(null, "", `#${name}`);
      open(name);
    });
    button.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!way) return;
      const next = byId(`tab-${TABS[(i + way + TABS.length) % TABS.length]}`);
      next.focus();
      next.click();
    });
  });
  const named = () => TABS.find((name) => `#${name}` === location.hash) ?? TABS[0];
  window.addEventListener("hashchange", () => open(named()));
  open(named());
}

main().catch((error) => say(`The playground cannot start: ${error.message}`));
