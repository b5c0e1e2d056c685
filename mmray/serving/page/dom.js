// Elements made from values. Text is always set as text: nothing that an answer holds can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a function is a listener, null and false are left out. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

/** The element of an id. */
export function the(id) {
  return document.getElementById(id);
}

/** A bar of a fraction, for the eye alone: its number always stands beside it as text. */
export function bar(fraction, kind = "") {
  const filling = el("span", { class: kind });
  filling.style.width = `${100 * Math.min(Math.max(fraction, 0), 1)}%`;
  return el("span", { class: "bar", "aria-hidden": "true" }, filling);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
