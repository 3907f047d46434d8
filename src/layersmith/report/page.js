// Tooltips, highlighting of one series at a time, and the download of the result. Everything is readable without it.
"use strict";
(() => {
  const tip = document.getElementById("tip");

  const showTip = (event) => {
    const mark = event.target.closest?.("[data-tip]");
    tip.hidden = !mark;
    if (!mark) return;
    tip.textContent = mark.dataset.tip;
    const { width, height } = tip.getBoundingClientRect();
    const left = Math.min(event.clientX + 14, document.documentElement.clientWidth - width - 8);
    const below = event.clientY + 18;
    const fits = below + height < window.innerHeight;
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${Math.max(fits ? below : event.clientY - height - 12, 8)}px`;
  };
  document.addEventListener("pointermove", showTip);
  document.addEventListener("pointerdown", showTip);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true, capture: true });

  let lit = null;
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.("svg [data-series]");
    if (lit) {
      lit.classList.remove("focus");
      lit.querySelectorAll(".lit").forEach((part) => part.classList.remove("lit"));
      lit = null;
    }
    if (!mark) return;
    lit = mark.closest("svg");
    lit.classList.add("focus");
    lit.querySelectorAll("[data-series]").forEach((part) => {
      if (part.dataset.series === mark.dataset.series) part.classList.add("lit");
    });
  });

  document.getElementById("download").addEventListener("click", () => {
    const result = JSON.parse(document.getElementById("result").textContent);
    const link = document.createElement("a");
    const blob = new Blob([JSON.stringify(result, null, 1)], { type: "application/json" });
    link.href = URL.createObjectURL(blob);
    link.download = "result.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
})();
