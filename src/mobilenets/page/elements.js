// Making elements. Text is set as text, never as HTML: labels and file names are other people's.

/** Make an element: element("td", {class: "number"}, "5"); children are elements or text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Make an element of an SVG drawing. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Make a table of two columns: [["width", "1.0"], ...]. */
export function factTable(title, rows) {
  const caption = title ? [element("caption", {}, title)] : [];
  const lines = rows.map(([name, value]) => element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)));
  return element("table", {}, ...caption, element("tbody", {}, ...lines));
}

export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

export const whole = (number) => number.toLocaleString("en");

/** Return a file's size: 18.6 MB. */
export function size(bytes) {
  return bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
