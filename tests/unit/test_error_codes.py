"""Every deliberate error has a code in both transports, and no error tells what is private."""

from __future__ import annotations

import grpc
import pytest

from matching import errors
from matching.errors import CorruptArtifact, LikewiseError, MissingExtra, NotFound, StorageFull
from serving.error_codes import ERROR_CODES, INTERNAL, code_of, public_message


def all_kinds(kind: type[LikewiseError] = LikewiseError) -> list[type[LikewiseError]]:
    return [found for child in kind.__subclasses__() for found in (child, *all_kinds(child))]


def test_every_error_has_a_code() -> None:
    declared = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LikewiseError)}
    assert declared - {LikewiseError} == set(ERROR_CODES)
    assert set(all_kinds()) >= declared - {LikewiseError}


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_codes_exist_in_both_transports(kind: type[LikewiseError]) -> None:
    code = code_of(kind("[test] wrong"))
    assert grpc.StatusCode[code.status].value[0] == code.grpc
    assert 400 <= code.http < 600
    if kind is StorageFull:  # the service's fault, and yet no retry storm: gRPC has one name for whatever ran out
        return
    # a caller's mistake and a service's fault are told apart the same way on both sides
    callers = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
    callers |= {"UNAUTHENTICATED", "PERMISSION_DENIED"}
    assert (code.http < 500) == (code.status in callers)


def test_a_new_subclass_takes_the_code_of_its_base() -> None:
    class NoSuchShop(NotFound):
        pass

    assert code_of(NoSuchShop("[test] gone")).http == 404


def test_what_nobody_raised_on_purpose_is_internal_and_silent() -> None:
    error = ZeroDivisionError("secret /srv/store")
    assert code_of(error) == INTERNAL
    assert "secret" not in public_message(error)
    assert "/srv" not in public_message(error)


@pytest.mark.parametrize("kind", [CorruptArtifact, MissingExtra])
def test_messages_with_paths_stay_inside(kind: type[LikewiseError]) -> None:
    assert "/srv/store" not in public_message(kind("[open] /srv/store/versions/v1 is damaged"))


def test_a_message_for_the_caller_is_told_as_it_is() -> None:
    assert public_message(NotFound("[read] no datapoint 'a'")) == "[read] no datapoint 'a'"
