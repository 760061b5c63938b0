// What the theme leaves undone for people who read by keyboard or by ear, or on a narrow page.

// A formula that is wider than the page scrolls: by keyboard too. The theme does so for code and tables.
function letFormulasScroll() {
  for (const formula of document.querySelectorAll("mjx-container[display]")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0;
    else formula.removeAttribute("tabindex");
  }
}

// docutils calls each reference a bibliography entry: a role that is out of use, and no item of a list.
function nameReferences() {
  for (const entry of document.querySelectorAll("[role='doc-biblioentry']")) {
    entry.setAttribute("role", "listitem");
  }
}

// In the sidebar an arrow unfolds the pages below a page: for the ear it needs a name.
function nameArrows() {
  for (const arrow of document.querySelectorAll(".has-children > details > summary")) {
    const above = arrow.closest(".has-children").querySelector("a");
    arrow.setAttribute("aria-label", `Pages below: ${above.textContent.trim()}`);
  }
}

// A number and its unit stay on one line: "14 %", "± 0.3", "[-4.94, -3.72]".
function keepUnits() {
  const texts = document.createTreeWalker(
    document.querySelector(".bd-article") ?? document.body, NodeFilter.SHOW_TEXT,
    (node) => node.parentElement.closest("pre, code, script, style, mjx-container")
      ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const kept = text.data
      .replace(/(\d) (?=(%|×|MB|points?|seconds?|minutes?)(?![\w]))/g, "$1\u00a0")
      .replace(/([±×]) (?=\d)/g, "$1\u00a0")
      .replace(/(\d) (?=±)/g, "$1\u00a0")
      .replace(/(\[[-+\d.]+,) (?=[-+\d.]+\])/g, "$1\u00a0");
    if (kept !== text.data) text.data = kept;
  }
}

window.addEventListener("load", async () => {
  keepUnits();
  nameArrows();
  nameReferences();
  await window.MathJax?.startup?.promise;
  letFormulasScroll();
  window.addEventListener("resize", letFormulasScroll);
});
