/** The stage before anything is drawn. */

import { useStudio } from "../studio.ts";

const EXAMPLES = [
  "a red circle on a blue background",
  "a large green heart on a white background",
  "a small yellow star at the top on a purple background",
];

export function Welcome() {
  const { info, change } = useStudio();
  return (
    <div className="welcome">
      <p>Say what to draw, then press <kbd>Ctrl</kbd> <kbd>Enter</kbd>.</p>
      {info.model.id === "builtin" && (
        <div className="chips" role="group" aria-label="Examples">
          {EXAMPLES.map((prompt) => (
            <button key={prompt} type="button" className="chip" onClick={() => change({ prompt })}>
              {prompt}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
