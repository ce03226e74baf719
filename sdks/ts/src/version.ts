/** Version of this package, as in package.json; a test compares them. */
export const VERSION = "0.1.0";

/** Name under which the SDK introduces itself to servers. */
export const SDK_NAME = "codeq-ts";

/** Version of the stream protocol that the SDK was written for, and the lowest that it expects of servers. */
export const PROTOCOL = 1;
