// Renews the figures every two seconds while the page is looked at, shows times in the reader's own zone,
// and copies commands. The page works without it.
"use strict";

(() => {
  const said = document.getElementById("said");
  const say = (words) => { if (said) said.textContent = words; };

  const localise = (root) => {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      const exact = at.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
      if (time.classList.contains("clock")) {
        const recent = Date.now() - at < 86400000 * 1.1;
        time.textContent = at.toLocaleString(undefined, recent
          ? { hour: "2-digit", minute: "2-digit" }
          : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
      }
      time.title = exact;
    }
  };

  const buttons = () => {
    for (const button of document.querySelectorAll("[data-copy]")) {
      if (!navigator.clipboard) continue;
      button.hidden = false;
      button.addEventListener("click", async () => {
        await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
        button.textContent = "Copied";
        say("Copied");
        setTimeout(() => { button.textContent = "Copy"; }, 1600);
      });
    }
    for (const form of document.querySelectorAll("form[method=post]")) {
      form.addEventListener("submit", () => {
        const button = form.querySelector("button[data-busy]");
        if (!button) return;
        // after the form's data are collected, so that the button's own state cannot disturb them
        setTimeout(() => { button.disabled = true; button.textContent = button.dataset.busy; }, 0);
      });
    }
  };

  const selected = (part) => {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const renew = (fresh) => {
    for (const part of document.querySelectorAll("[data-live][id]")) {
      const next = fresh.getElementById(part.id);
      if (!next || selected(part)) continue;
      localise(next);
      if (part.innerHTML === next.innerHTML) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      const place = focused ? [...part.querySelectorAll("a, button, [tabindex]")].indexOf(focused) : -1;
      const scrolled = [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
      part.replaceChildren(...document.importNode(next, true).childNodes);
      part.querySelectorAll(".scroll").forEach((one, i) => { one.scrollLeft = scrolled[i] || 0; });
      if (place >= 0) part.querySelectorAll("a, button, [tabindex]")[place]?.focus({ preventScroll: true });
    }
  };

  const live = () => {
    const button = document.getElementById("live");
    const least = 1000 * Number(document.body.dataset.live || 0);
    if (!button || !least) return;
    let on = true, timer = 0, faults = 0, asking = false;
    const show = (state) => { button.dataset.state = state; button.setAttribute("aria-pressed", String(on)); };
    const later = (delay) => { clearTimeout(timer); if (on && !document.hidden) timer = setTimeout(ask, delay); };
    const ask = async () => {
      if (asking) return;
      asking = true;
      const began = performance.now();
      try {
        const answer = await fetch(location.href, { headers: { "X-DBOpt-Live": "1" }, cache: "no-store" });
        if (answer.status === 401 || answer.status === 404) {
          on = false;
          show("off");
          say("The sign-in has ended; reload the page to sign in again.");
          button.lastChild.textContent = "Signed out";
          return;
        }
        if (!answer.ok) throw new Error(String(answer.status));
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (on) renew(fresh);
        faults = 0;
        show(on ? "on" : "off");
      } catch {
        faults += 1;
        show("lost");
      } finally {
        asking = false;
        // a busy server is asked less often
        later(Math.max(least * Math.min(2 ** faults, 16), 4 * (performance.now() - began)));
      }
    };
    button.hidden = false;
    show("on");
    button.addEventListener("click", () => {
      on = !on;
      show(on ? "on" : "off");
      say(on ? "Figures renew themselves" : "Figures stand still");
      if (on) later(0); else clearTimeout(timer);
    });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) later(0); else clearTimeout(timer); });
    later(least);
  };

  const here = new URL(location.href);
  if (here.searchParams.has("note")) {
    here.searchParams.delete("note");
    history.replaceState(null, "", here);
  }
  // on a phone the sections scroll sideways
  document.querySelector(".side [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
  localise(document);
  buttons();
  live();
})();
