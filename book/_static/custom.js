// What the theme leaves undone for people who read by keyboard or by ear.

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

window.addEventListener("load", async () => {
  nameReferences();
  await window.MathJax?.startup?.promise;
  letFormulasScroll();
  window.addEventListener("resize", letFormulasScroll);
});
