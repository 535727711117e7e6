/** Asks for the worker's token, which every route under /v1 wants. */

import { useEffect, useRef, useState } from "react";

import { keepToken, readToken } from "../token.ts";

export function TokenPrompt({ onToken }: { onToken: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [token, setToken] = useState("");
  const [onDevice, setOnDevice] = useState(false);
  const [unfit, setUnfit] = useState(false);
  const fault = unfit
    ? "That is no token: it holds a character that is not seen, or is not ASCII."
    : readToken() !== null && "The worker does not take the token it was given.";
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} className="prompt" aria-labelledby="token-title" onCancel={(event) => event.preventDefault()}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const kept = keepToken(token.trim(), onDevice);
          setUnfit(!kept);
          if (kept) onToken();
        }}
      >
        <h2 id="token-title">This worker asks for a token</h2>
        {fault && <p className="fault" role="alert">{fault}</p>}
        <label className="field">
          <span>Token</span>
          <input type="password" autoComplete="off" required autoFocus value={token} onChange={(event) => setToken(event.target.value)} />
        </label>
        <label className="check">
          <input type="checkbox" checked={onDevice} onChange={(event) => setOnDevice(event.target.checked)} />
          Keep it on this device
        </label>
        <button className="primary" type="submit">Open the studio</button>
      </form>
    </dialog>
  );
}
