// How far a person agrees with judges and with other people: a line, and a table behind it.

const percent = (share) => `${Math.round(100 * share)} %`;
const words = (name) => name.replaceAll("_", " ");

/** Return "judge:big" as "big (judge)", and people by their names. */
export function whoIs(labeller) {
  const [kind, ...rest] = labeller.split(":");
  const name = rest.join(":");
  if (!name) return kind;
  return kind === "human" ? name : `${name} (${kind})`;
}

function kappa({ kappa: value }) {
  return value === null ? "–" : value.toFixed(2);
}

function addRow(table, tag, texts, className = "") {
  const row = document.createElement("tr");
  row.className = className;
  for (const text of texts) {
    row.append(Object.assign(document.createElement(tag), { textContent: text }));
  }
  table.append(row);
}

function more({ num_more: num }) {
  return num ? `${num} more for ±5 %` : "±5 % reached";
}

export function showAgreement(details, rows) {
  details.hidden = !rows.length;
  if (!rows.length) return;
  const first = rows.find((row) => row.labeller.startsWith("judge:")) ?? rows[0];
  const { all } = first;
  const wide = Object.assign(document.createElement("span"), { className: "key-only" });
  wide.textContent = `, kappa ${kappa(all)} · ${more(all)}`;
  details.firstElementChild.replaceChildren(
    `agreement with ${whoIs(first.labeller)}: ${percent(all.share)}`,
    wide,
  );
  const table = details.querySelector("table");
  table.replaceChildren();
  const heads = ["", "agree", "kappa", "95 % (Wilson)", "answers", ""];
  addRow(table, "th", heads);
  for (const { labeller, all: total, dimensions } of rows) {
    const lines = [[whoIs(labeller), total, "total"]];
    for (const [name, row] of Object.entries(dimensions)) lines.push([`  ${words(name)}`, row, ""]);
    for (const [name, row, className] of lines) {
      const interval = `${percent(row.low)} to ${percent(row.high)}`;
      const texts = [name, percent(row.share), kappa(row), interval, row.num, more(row)];
      addRow(table, "td", texts, className);
    }
  }
}
