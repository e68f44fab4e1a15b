"""Harm to who may use the API: tokens that are not good, and things that are somebody else's."""

from tests.mutants.change import Change

TOKENS = ("unit/kit/test_tokens.py",)
KEYS = ("unit/kit/test_keys.py",)
RULES = ("integration/test_auth.py",)

CHANGES = [
    Change(
        "token-good-for-ever",
        "a token that was good once is good after it has expired",
        "kit/web/auth/verifier.py",
        " and self._clock() < known[0].ends:",
        ":",
        TOKENS,
    ),
    Change(
        "key-good-for-ever",
        "tokens of a key that was taken away are good until they expire",
        "kit/web/auth/verifier.py",
        "known and known[1] is keys and",
        "known and",
        KEYS,
    ),
    Change(
        "algorithm-of-the-token",
        "a token says itself how it is checked",
        "kit/web/auth/verifier.py",
        "algorithm not in self._settings.algorithms",
        "algorithm is None",
        TOKENS,
    ),
    Change(
        "key-with-any-algorithm",
        "a key is used with another algorithm than its own",
        "kit/web/auth/keys.py",
        ' & {jwk.get("alg", one) for one in allowed}',
        "",
        TOKENS,
    ),
    Change(
        "made-up-names-of-keys",
        "whoever makes up names of keys makes us ask the provider each time",
        "kit/web/auth/keys.py",
        "self._may_try(UNKNOWN_S)",
        "True",
        KEYS,
    ),
    Change(
        "keys-without-a-limit",
        "a provider that answers without end fills the memory",
        "kit/web/auth/keys.py",
        "if len(text) > SET_LIMIT_BYTES:",
        "if False:",
        KEYS,
    ),
    Change(
        "first-of-two-tokens",
        "a proxy and a service may see another sender",
        "kit/web/auth/guard.py",
        "if is_repeated(request, AUTHORIZATION):",
        "if False:",
        TOKENS,
    ),
    Change(
        "scope-not-asked-for",
        "a token for reading may order",
        "kit/web/auth/guard.py",
        "if not caller.has(rule.scope):",
        "if False:",
        TOKENS,
    ),
    Change(
        "secret-of-services-not-asked-for",
        "whoever reaches a service may act for another service",
        "kit/web/auth/guard.py",
        "if self._internal and not hmac",
        "if False and not hmac",
        TOKENS,
    ),
    Change(
        "subject-without-an-owner",
        "what belongs to nobody belongs to everybody who is no user",
        "kit/web/auth/caller.py",
        "(user_id is not None and user_id == self.user_id)",
        "user_id == self.user_id",
        TOKENS,
    ),
    Change(
        "path-of-somebody-else",
        "a user may take the money of another one",
        "kit/web/auth/rules.py",
        'self._check(caller.owns(arguments["user_id"]))',
        "pass",
        RULES,
    ),
    Change(
        "answer-of-somebody-else",
        "a user sees what another one has ordered",
        "kit/web/auth/rules.py",
        "self._check(caller.owns(body.user_id))",
        "pass",
        RULES,
    ),
    Change(
        "list-of-everybody",
        "a list that names nobody holds everybody's",
        "kit/web/auth/rules.py",
        "if asked in (None, caller.user_id)",
        "if asked == caller.user_id",
        RULES,
    ),
    Change(
        "stream-after-its-token",
        "a stream goes on after its token has expired",
        "kit/web/auth/caller.py",
        "if time.time() > self.ends:",
        "if False:",
        (f"{RULES[0]}::test_a_stream_ends_with_its_token",),
    ),
]
