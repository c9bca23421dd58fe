"""What the engine's tests share."""

from Testing.own_folders import folders_of_their_own as folders_of_their_own
