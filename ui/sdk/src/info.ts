/** What a worker says of itself: `GET /v1/info` and `GET /ready`. */

export interface Info {
  worker: {
    id: string;
    instance_id: string;
    model_id: string;
    backend: string;
    device: string;
    status: "starting" | "ready" | "busy" | "stopping" | "stopped";
    implementation: string;
    version: string;
    queue: { waiting: number; running: number; capacity: number; eta_s: number | null };
    memory: { total_bytes: number | null; used_bytes: number | null };
  };
  model: {
    id: string;
    family: string;
    dtype: string;
    /** What most of its weights are kept in, where that is another type. */
    weights_dtype?: string | null;
    /** `exact` where a job's pictures are the same bytes in any company. */
    numerics?: "fast" | "exact";
    /** The mode of torch.compile that most calls are compiled in; null for none. */
    compile?: string | null;
    width: number;
    height: number;
    multiple: number;
    steps: number;
    guidance_scale: number;
    sampler: string;
  };
  tasks: string[];
  samplers: string[];
  loras: Adapter[];
  controls: Adapter[];
  /** What the `upscale` task may name; absent from workers that know no such task. */
  upscalers?: string[];
  limits: Limits & Record<string, number>;
}

/** A LoRA or a ControlNet. Those that do not fit the loaded model are listed too, with the reason. */
export interface Adapter {
  name: string;
  trigger_words?: string[];
  fits: boolean;
  reason: string | null;
}

export interface Limits {
  queue_capacity: number;
  body_bytes: number;
  prompt_characters: number;
  min_side_px: number;
  max_side_px: number;
  max_pixels: number;
  max_steps: number;
  max_guidance_scale: number;
  max_images: number;
  /** LoRAs in one job, and as many ControlNets. */
  max_adapters: number;
  max_work: number;
}

export interface Readiness {
  ready: boolean;
  reason?: "loading" | "draining" | "failed";
  /** 0 to 1, while loading. */
  progress?: number;
}
