/** The seed: thrown anew for every job, or locked. */

import { randomSeed } from "../settings.ts";
import { useStudio } from "../studio.ts";
import { Icon } from "./Icon.tsx";

export function SeedField() {
  const { settings, change } = useStudio();
  return (
    <div className="row seed">
      <label className="field">
        <span>Seed</span>
        <input
          inputMode="numeric"
          value={settings.seed}
          onChange={(event) => {
            const seed = Number(event.target.value);
            if (Number.isSafeInteger(seed) && seed >= 0) change({ seed, seedLocked: true });
          }}
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
