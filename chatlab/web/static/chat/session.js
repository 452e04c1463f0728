/* Who is logged in here.

   The token lives in localStorage, so that every tab of this browser is the same person, a reload or a restarted browser stays
   logged in, and a log-out in one tab is one in all. (sessionStorage would ask for the password in each new tab, and keep nothing
   from a script that runs here; against those stand the content security policy and text that is only ever text.)
   Its key holds the path, so that two services behind one proxy do not mix, and the name of the pane: `?pane=left` and
   `?pane=right` are two people side by side in one window. The token itself is never part of an address. */

const PANE = new URL(document.baseURI).searchParams.get("pane") ?? "";
const KEY = `chatlab ${new URL(".", document.baseURI).pathname} ${PANE}`;

export function stored() {
  try {
    const session = JSON.parse(localStorage.getItem(KEY));
    return session?.token && session.user?.id ? session : null;
  } catch {
    return null;
  }
}

export function store(session) {
  localStorage.setItem(KEY, JSON.stringify(session));
}

export function forget() {
  localStorage.removeItem(KEY);
}

/** Called when another tab has logged in or out. */
export function onElsewhere(heard) {
  addEventListener("storage", ({ key }) => {
    if (key === KEY || key === null) heard();
  });
}
