"""The `jwks` provider: accepts JSON Web Tokens that an identity provider signed, by the keys that it publishes.

`document` fetches the keys, `keys` reads them, `store` keeps them, `tokens` reads tokens; `validator` joins the four.
Importing `config` is cheap; `validator` imports an HTTP client, which takes a third of a second.
"""
