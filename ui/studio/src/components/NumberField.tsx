/** A number with a slider beside it; both are the same value, in the bounds that the worker gives. */

import { useId, useState } from "react";

interface Props {
  label: string;
  value: number;
  min: number;
  max: number;
  step: number;
  onChange: (value: number) => void;
  /** Where the slider ends, if typing may go further. */
  sliderMax?: number;
}

export function NumberField({ label, value, min, max, step, onChange, sliderMax }: Props) {
  const id = useId();
  const [typed, setTyped] = useState<string | null>(null);
  const take = (text: string) => {
    const number = Number(text.replace(",", ".")); // the decimal comma of many languages
    if (text.trim() === "" || Number.isNaN(number)) return;
    const inSteps = Math.round(number / step) * step;
    onChange(Number(Math.min(max, Math.max(min, inSteps)).toFixed(6)));
  };
  return (
    <div className="field number">
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        inputMode="decimal"
        value={typed ?? String(value)}
        onChange={(event) => {
          setTyped(event.target.value); // what is being typed stays as it is; the value is always one that is allowed
          take(event.target.value);
        }}
        onBlur={() => setTyped(null)}
      />
      <input
        type="range"
        aria-label={`${label}, slider`}
        min={min}
        max={sliderMax ?? max}
        step={step}
        value={value}
        onChange={(event) => take(event.target.value)}
      />
    </div>
  );
}
