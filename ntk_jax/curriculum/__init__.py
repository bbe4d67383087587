"""How training changes as it goes on: lengths, what is read, what is left out.

Decisions alone, in numpy on the host; the model and the step carry them out.
"""
