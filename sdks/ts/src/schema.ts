import { Failed } from "./outcomes.js";

/** The part of the Standard Schema interface (version 1) that the SDK uses; zod, valibot and arktype implement it. */
export interface StandardSchema<Output = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined;
  };
}

/** What a schema says of a value. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

/** What is wrong with a value, and where. */
export interface SchemaIssue {
  readonly message: string;
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** Most issues that the error of a task names. */
const ISSUES_MAX = 10;

/** Returns the validated value; throws Failed, which names the path of each issue, if it is not valid. */
export async function validated<Output>(schema: StandardSchema<Output>, value: unknown): Promise<Output> {
  const told = await schema["~standard"].validate(value);
  if (told.issues === undefined) return told.value;
  const lines = told.issues.slice(0, ISSUES_MAX).map((issue) => `${pathOf(issue)}: ${issue.message}`);
  throw new Failed(`invalid payload: ${lines.join("; ")}`);
}

function pathOf(issue: SchemaIssue): string {
  let path = "payload";
  for (const part of issue.path ?? []) {
    const key = typeof part === "object" ? part.key : part;
    path += typeof key === "number" ? `[${key}]` : `.${String(key)}`;
  }
  return path;
}
