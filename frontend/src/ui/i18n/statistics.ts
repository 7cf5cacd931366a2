/** Empty: the strings of all researchers' pages come with them (languages.ts). */
export {}
