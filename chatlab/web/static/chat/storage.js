/* What the browser stores for this page. A browser that blocks site data, or has no room for it,
   keeps it until the page is closed: localStorage throws then. */

/** @type {Map<string, string>} */
const ofThisPage = new Map();

/** @param {string} key */
export function read(key) {
  try {
    return ofThisPage.get(key) ?? localStorage.getItem(key);
  } catch {
    return null;
  }
}

/**
 * @param {string} key
 * @param {string} value
 */
export function write(key, value) {
  try {
    localStorage.setItem(key, value);
    ofThisPage.delete(key);
  } catch {
    ofThisPage.set(key, value);
  }
}

/** @param {string} key */
export function remove(key) {
  ofThisPage.delete(key);
  try {
    localStorage.removeItem(key);
  } catch {
    // there is nothing to remove
  }
}

/**
 * The keys that begin with this prefix.
 *
 * @param {string} prefix
 */
export function keysWith(prefix) {
  let stored = /** @type {string[]} */ ([]);
  try {
    stored = Object.keys(localStorage);
  } catch {
    // only those of this page
  }
  return [...new Set([...stored, ...ofThisPage.keys()])].filter((key) => key.startsWith(prefix));
}
