/** The seed: thrown anew for every job, or locked. */

import { useState } from "react";

import { isSeed, randomSeed } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { Icon } from "./Icon.tsx";

export function SeedField() {
  const { settings, change } = useStudio();
  const [emptied, setEmptied] = useState(false);
  return (
    <div className="row seed">
      <label className="field">
        <span>Seed</span>
        <input
          inputMode="numeric"
          value={emptied ? "" : settings.seed}
          onChange={(event) => {
            const typed = event.target.value.trim();
            setEmptied(typed === ""); // until another one is typed, or the field is left
            if (typed !== "" && isSeed(Number(typed))) change({ seed: Number(typed), seedLocked: true });
          }}
          onBlur={() => setEmptied(false)}
        />
      </label>
      <button type="button" className="icon" aria-label="Another seed" onClick={() => change({ seed: randomSeed() })}>
        <Icon name="dice" />
      </button>
      <button
        type="button"
        className="icon"
        aria-label="Keep the seed"
        aria-pressed={settings.seedLocked}
        onClick={() => change({ seedLocked: !settings.seedLocked })}
      >
        <Icon name={settings.seedLocked ? "lock" : "unlock"} />
      </button>
    </div>
  );
}
