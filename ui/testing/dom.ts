/** The little of a browser that React needs; the network stays Node's own. */

import { Window } from "happy-dom";

const window = new Window();
Object.assign(globalThis, { window, document: window.document, IS_REACT_ACT_ENVIRONMENT: false });
// Younger Nodes have one of their own, which cannot be assigned to.
if (!("navigator" in globalThis)) Object.assign(globalThis, { navigator: window.navigator });
