export interface Restrict {
  namespace: string;
  allowList?: string[];
  denyList?: string[];
}

export interface NumericRestrict {
  namespace: string;
  valueInt?: number | string;
  valueFloat?: number;
  valueDouble?: number;
  op: "LESS" | "LESS_EQUAL" | "EQUAL" | "GREATER_EQUAL" | "GREATER" | "NOT_EQUAL";
}

export interface Filtered {
  restricts?: Restrict[];
  numericRestricts?: NumericRestrict[];
}

export interface SlateRequest extends Filtered {
  userId?: string;
  sessionId?: string;
  items?: string[];
  basket?: string[];
  surface?: string;
  k?: number;
  exclude?: string[];
  excludeSeen?: boolean;
  excludeBought?: boolean;
  /** Places of all pages together, where the slate is asked for by pages of k. */
  depth?: number;
  /** nextPageToken of the page before; all else but k as it was. */
  pageToken?: string;
}

export interface SlateItem {
  itemId: string;
  score: number;
  sources: string[];
  reason: string;
  because: string;
  rules?: string[];
}

export interface Slate {
  items: SlateItem[];
  recommendationId: string;
  indexVersion: string;
  models: Record<string, string>;
  variant: string;
  degraded: boolean;
  nMatching: number;
  rulesVersion: string;
  nextPageToken: string;
}

export interface SearchRequest extends Filtered {
  k?: number;
  space?: string;
  crowdingCap?: number;
  exact?: boolean;
  recallTarget?: number;
  rrfAlpha?: number;
  scoreAlpha?: number;
}

export interface Datapoint {
  datapointId: string;
  restricts?: Restrict[];
  numericRestricts?: Omit<NumericRestrict, "op">[];
  crowdingTag?: { crowdingAttribute: string };
  embeddingMetadata?: Record<string, unknown>;
}

export interface Neighbors {
  neighbors: { datapoint: Datapoint; distance: number; sparseDistance?: number }[];
  space: string;
  plan: "exact" | "graph" | "ivf" | "table";
  effort: number | null;
  nMatching: number;
  exact: boolean;
}

export interface SearchAnswer extends Neighbors {
  indexVersion: string;
  variant: string;
  degraded: boolean;
  coverage: number;
  tookMs: number;
}

export interface EventItem {
  itemId: string;
  quantity?: number;
  value?: number;
  position?: number;
  propensity?: number;
}

export interface ShopEvent {
  eventId?: string;
  userId?: string;
  sessionId?: string;
  items?: (string | EventItem)[];
  atMs?: number;
  query?: string;
  recommendationId?: string;
}

export interface EventOutcome {
  eventId: string;
  status: "accepted" | "duplicate" | "rejected";
  reason?: string;
  message?: string;
}

export interface Options {
  /** A key or a token; never one that may write in a public page. */
  key?: string;
  /** User, session or device that is assigned to a variant. */
  unitId?: string;
  endpoint?: string;
  /** Of a call with all its attempts; 10000. */
  timeoutMs?: number;
  attempts?: number;
  pauseMs?: number;
  /** Events in one request; 50. */
  batch?: number;
  /** How long an event waits for others; 2000. */
  flushMs?: number;
  onEvents?: (outcomes: EventOutcome[]) => void;
}

export declare class LikewiseError extends Error {
  /** The HTTP status; 0 where nobody answered. */
  readonly status: number;
  readonly code: string;
}

export declare class Likewise {
  constructor(url: string, options?: Options);
  recommend(asked?: SlateRequest): Promise<Slate>;
  search(text: string, asked?: SearchRequest): Promise<SearchAnswer>;
  similar(itemId: string, k?: number): Promise<SearchAnswer>;
  findNeighbors(queries: (string | Iterable<number>)[], k?: number, asked?: object): Promise<(Neighbors & { id: string })[]>;
  tell(eventType: string, event?: ShopEvent): string;
  flush(): Promise<void>;
  close(): Promise<void>;
}
