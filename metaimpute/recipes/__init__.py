"""Recipes: YAML files as validated settings, and what they name, built."""

from .recipe import Profile, Recipe, about_recipes, load, resolve, validate
from .shipped import shipped_recipes
from .source import RecipeError

__all__ = ["Profile", "Recipe", "RecipeError", "about_recipes", "load", "resolve", "shipped_recipes", "validate"]
