// Elements whose content is text, never HTML: what a model writes can't become a part of the page.

// Returns an element. Children are elements or texts; `properties` are those of the element.
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

// Returns an element whose text grows by `add`; it is hidden while it has none.
export function growing(name, className) {
  const made = element(name, { className, hidden: true });
  const text = document.createTextNode("");
  made.append(text);
  const add = (more) => {
    text.appendData(more);
    made.hidden = false;
  };
  return { element: made, add, text: () => text.data };
}
