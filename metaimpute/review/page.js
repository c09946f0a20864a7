(function () {
  "use strict";
  var fields = Array.prototype.slice.call(document.querySelectorAll("[data-row]"));
  var values = {}, button = document.getElementById("download"), told = document.getElementById("told");
  var known = document.getElementById("known"), classes = JSON.parse(known.getAttribute("data-names"));
  var kept = JSON.parse(known.getAttribute("data-kept"));
  document.querySelectorAll(".correct, .done").forEach(function (one) { one.hidden = false; });

  function valid(value) {
    if (!classes.length) { return isFinite(Number(value.replace(",", "."))); }
    return classes.indexOf(value) >= 0;
  }

  function count() {
    var number = Object.keys(values).length;
    told.textContent = number === 0 ? "No corrections yet." : number === 1 ? "1 correction." : number + " corrections.";
    var earlier = Object.keys(kept).filter(function (id) {
      return !Object.keys(values).some(function (row) { return JSON.parse(row) === id; });
    }).length;
    if (number && earlier) { told.textContent += " Earlier ones of the run in the file: " + earlier + "."; }
    button.disabled = number === 0;
  }

  function quoted(text) {
    return /[",\r\n]|^\s|\s$/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }

  fields.forEach(function (field) {
    field.addEventListener("change", function () {
      var row = field.getAttribute("data-row"), value = field.value.trim(), wrong = value !== "" && !valid(value);
      if (value === "" || wrong) { delete values[row]; } else { values[row] = value; }
      fields.forEach(function (other) {  // a row may stand in several sections
        if (other.getAttribute("data-row") !== row) { return; }
        other.value = field.value;
        other.parentNode.parentNode.classList.toggle("changed", value !== "" && !wrong);
        other.parentNode.parentNode.querySelector(".wrong").textContent = !wrong ? "" :
          classes.length ? "is no class" : "is no number";
      });
      count();
    });
  });

  button.addEventListener("click", function () {
    var labels = {};
    Object.keys(kept).forEach(function (id) { labels[JSON.stringify(id)] = kept[id]; });
    Object.keys(values).forEach(function (row) { labels[JSON.stringify(JSON.parse(row))] = values[row]; });
    var lines = ["id,label"].concat(Object.keys(labels).map(function (row) {
      return quoted(JSON.parse(row)) + "," + quoted(labels[row]);
    }));
    var link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "corrected.csv";
    document.body.appendChild(link);
    link.click();
    link.remove();
  });

  window.addEventListener("beforeunload", function (event) {
    if (Object.keys(values).length && !button.hasAttribute("data-taken")) { event.preventDefault(); }
  });
  button.addEventListener("click", function () { button.setAttribute("data-taken", ""); });
  count();
})();
